"""What a forward changes besides its results: generators, buffers and whatever else modules remember."""

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Generator, Tensor, nn

_Contents: TypeAlias = dict[str, Any]
_CONTAINERS = (list, dict, set, deque, OrderedDict)
_LEFT_ALONE = frozenset(("_parameters", "_buffers", "_call_impl", "_compiled_call_impl"))


@final
class World:
    """Lets a forward be run again and again as if each time were the first: made before the first run.

    It covers torch's global generators, those of Python and numpy, and those that a module holds; attributes of
    modules, with the items of lists, dictionaries and sets among them, hooks included; and buffers. A repetition works
    on copies of the buffers, since graphs may hold the buffers themselves. Parameters keep their values.

    Args:
        modules: the model's, each once.
        devices: whose generators may be drawn from.
    """

    def __init__(self, modules: Sequence[nn.Module], devices: set[torch.device]) -> None:
        self._devices = [device for device in devices if device.type != "cpu"]
        self._modules = modules
        self._before = self._look()
        buffers = [buffer for module in modules for buffer in module._buffers.values() if buffer is not None]
        self._values = {id(buffer): (buffer, buffer.detach().clone()) for buffer in buffers}
        self._parameters = [(p, p._version) for module in modules for p in module._parameters.values() if p is not None]

    @property
    def parameters_moved(self) -> bool:
        """Whether parameters have been written into since the start."""
        return any(parameter._version != version for parameter, version in self._parameters)

    @contextmanager
    def again(self) -> Iterator[None]:
        """A run that finds what the first found, and leaves everything as it is now."""
        after = self._look()
        self._put_back(self._before)
        copies = {key: value.clone() for key, (_, value) in self._values.items()}
        for module in self._modules:
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = copies[id(buffer)]
        try:
            yield
        finally:
            self._put_back(after)

    def undo(self) -> None:
        """Make everything what it was before the first run."""
        self._put_back(self._before)
        with torch.no_grad():
            for buffer, value in self._values.values():
                if not torch.equal(buffer, value):
                    buffer.copy_(value)

    def _look(self) -> "_Look":
        held = [value for module in self._modules for value in vars(module).values() if isinstance(value, Generator)]
        numpy = sys.modules.get("numpy")
        return _Look(
            torch.get_rng_state(),
            [torch.get_device_module(device).get_rng_state(device) for device in self._devices],
            random.getstate(),
            None if numpy is None else numpy.random.get_state(),
            [(generator, generator.get_state()) for generator in held],
            [_seen(module) for module in self._modules],
        )

    def _put_back(self, look: "_Look") -> None:
        torch.set_rng_state(look.cpu)
        for device, state in zip(self._devices, look.devices, strict=True):
            torch.get_device_module(device).set_rng_state(state, device)
        random.setstate(look.python)
        if look.numpy is not None:
            sys.modules["numpy"].random.set_state(look.numpy)
        for generator, state in look.generators:
            generator.set_state(state)
        for module, seen in zip(self._modules, look.modules, strict=True):
            _show(module, seen)


class _Module(NamedTuple):
    """One module's attributes, which buffers and parameters it has, and the items of attributes that are containers."""

    attributes: _Contents
    buffers: Mapping[str, Tensor | None]
    parameters: Mapping[str, Tensor | None]
    items: list[tuple[Any, Any]]


class _Look(NamedTuple):
    """All that a forward may change, at one moment."""

    cpu: Tensor
    devices: list[Tensor]
    python: Any
    numpy: Any
    generators: list[tuple[Generator, Tensor]]
    modules: list[_Module]


def _seen(module: nn.Module) -> _Module:
    own = {name: value for name, value in vars(module).items() if name not in _LEFT_ALONE}
    items = [(value, value.copy()) for value in own.values() if type(value) in _CONTAINERS]
    return _Module(own, dict(module._buffers), dict(module._parameters), items)


def _show(module: nn.Module, seen: _Module) -> None:
    own = vars(module)
    for name in [name for name in own if name not in seen.attributes and name not in _LEFT_ALONE]:
        del own[name]
    own.update(seen.attributes)
    for registered, before in ((module._buffers, seen.buffers), (module._parameters, seen.parameters)):
        if not _same(registered, before):
            registered.clear()
            registered.update(before)  # type: ignore[arg-type]
    for container, items in seen.items:
        if not _same(container, items):
            container.clear()
            (container.extend if isinstance(container, (list, deque)) else container.update)(items)


def _same(container: Any, items: Any) -> bool:
    if len(container) != len(items):
        return False
    if isinstance(container, dict):
        return all(key in container and container[key] is value for key, value in items.items())
    return all(one is other for one, other in zip(container, items, strict=True))

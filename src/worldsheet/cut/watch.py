"""What must be noticed of a forward besides the calls of its submodules."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from worldsheet.core.private_torch import saved_tensor_hooks, step_aside, step_back
from worldsheet.cut.state import hook_between_sites, site_of

_Arguments: TypeAlias = tuple[Any, ...]


class Watcher(ABC):
    """Who is told."""

    @abstractmethod
    def joined(self, name: str, made: Tensor) -> Tensor:
        """Tensors were added or concatenated; returns what the caller shall receive."""

    @abstractmethod
    def written(self, target: Tensor) -> None:
        """A tensor is about to be written into."""

    @abstractmethod
    def surrounded(self) -> None:
        """Something else decides what graphs save: an activation checkpoint, for example."""

    @abstractmethod
    def hooked(self, tensor: Tensor) -> None:
        """A hook was put on the derivative by a tensor that is no state."""

    @abstractmethod
    def differentiated(self, roots: list[Tensor], points: list[Tensor]) -> None:
        """The derivatives of some tensors, by others if they are named, are about to be asked for."""


@final
class Watch(TorchFunctionMode):
    """Tells a watcher what one thread does with torch's functions; all but a few pass at the cost of one look-up."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._hooks = saved_tensor_hooks(True)

    def pause(self) -> bool:
        """Look away, if nobody else looks in between; `resume` ends it."""
        return step_aside(self)

    def resume(self) -> None:
        """Look again."""
        step_back(self)

    def __torch_function__(
        self, func: Any, types: Any, args: _Arguments = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_dynamo_compiling():  # what is compiled is never cut
            return func(*args, **kwargs or {})
        hooks = saved_tensor_hooks(True)
        if hooks is not None and hooks != self._hooks:
            self._watcher.surrounded()
        act = _SPECIAL.get(func)
        if act is None:
            return func(*args, **kwargs) if kwargs else func(*args)
        return act(self._watcher, func, args, kwargs or {})


def _join(watcher: Watcher, func: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    made = func(*args, **kwargs)
    if "out" in kwargs:
        return made
    first = args[0] if args else kwargs.get("tensors")
    live = 0
    for operand in first if isinstance(first, (list, tuple)) else args:
        live += isinstance(operand, Tensor) and operand.grad_fn is not None
    return watcher.joined(func.__name__, made) if live > 1 else made  # of results that derivatives flow through


def _write(watcher: Watcher, func: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    target = args[0] if args else kwargs.get("input")
    if isinstance(target, Tensor) and (func not in _MAY_WRITE or _writes(func, kwargs)):
        watcher.written(target)
    return func(*args, **kwargs)


def _writes(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function that may work in place does; dropout that is off returns its input as it is."""
    is_off = "dropout" in func.__name__ and kwargs.get("training") is False
    return bool(kwargs.get("inplace")) and not is_off


def _register_hook(watcher: Watcher, func: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    tensor, hook = args[0], args[1] if len(args) > 1 else kwargs["hook"]
    site = site_of(tensor)
    if site is not None:
        if getattr(hook, "__module__", "") == "torch.autograd.graph":
            raise hook_between_sites()
        return site.hook(tensor.output_nr, hook)
    watcher.hooked(tensor)
    return func(*args, **kwargs)


def _retain_grad(watcher: Watcher, func: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    (tensor,) = args
    site = site_of(tensor)
    if site is None:
        watcher.hooked(tensor)
        return func(*args, **kwargs)

    def keep(credit: Tensor) -> None:
        tensor.grad = credit.clone()

    site.hook(tensor.output_nr, keep)
    return None


def _differentiate(watcher: Watcher, func: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    roots: Any = args[0] if args else kwargs.get("outputs", kwargs.get("tensors"))
    points: Any = kwargs.get("inputs", args[1] if func is torch.autograd.grad and len(args) > 1 else ())
    watcher.differentiated(_tensors(roots), _tensors(points))
    return func(*args, **kwargs)


def _tensors(given: Any) -> list[Tensor]:
    return [given] if isinstance(given, Tensor) else [each for each in given or () if isinstance(each, Tensor)]


_Act: TypeAlias = Callable[[Watcher, Any, _Arguments, dict[str, Any]], Any]

_MAY_WRITE = frozenset(
    function
    for name in dir(F)
    if "inplace" in getattr(getattr(function := getattr(F, name), "__code__", None), "co_varnames", ())
)

_ASSIGNED = ("add", "sub", "mul", "matmul", "div", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
_ASSIGNING = frozenset(f"__i{operation}__" for operation in (*_ASSIGNED, "lshift", "rshift"))

_NO_WRITES = frozenset(("requires_grad_", "share_memory_", "rename_", "detach_", "retain_grad"))

_WRITES = [
    getattr(owner, name)
    for owner in (Tensor, torch)
    for name in dir(owner)
    if name in _ASSIGNING or (name.endswith("_") and not name.startswith("_") and name not in _NO_WRITES)
]

_SPECIAL: dict[Any, _Act] = {
    **{function: _write for function in (*_WRITES, *_MAY_WRITE, Tensor.__setitem__) if callable(function)},
    **dict.fromkeys((Tensor.add, torch.add, torch.cat, torch.concat, torch.concatenate), _join),
    Tensor.register_hook: _register_hook,
    Tensor.retain_grad: _retain_grad,
    Tensor.backward: _differentiate,
    torch.autograd.grad: _differentiate,
    torch.autograd.backward: _differentiate,
}

"""Evaluating a layer again as if it were the first time: the same dropout mask, statistics that move once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from worldsheet.core.private_torch import tree_leaves
from worldsheet.layers.layer import ModuleInfo


@dataclass
class _Kept:
    """What a layer was like before its first evaluation, and its buffers after the latest repetition."""

    device: torch.device
    random: tuple[Tensor, ...]
    buffers: dict[str, Tensor]
    latest: dict[str, Tensor] | None = None


@final
class Replay:
    """Calls the functions of one relaxation; repeated calls draw the same numbers and start from the same buffers.

    The first call of a function is an ordinary call, so a schedule that evaluates every layer once behaves to the bit
    like a forward pass, buffers and generator included. Repetitions rewind the generator meanwhile and move copies of
    the buffers; `settle` writes the copies of the last repetition back, in order, so that a module at several sites
    moves its buffers once per site, as in a forward pass.

    Args:
        functions: layers in order of evaluation, the loss last.
        traits: what `inspect` found about each.
    """

    def __init__(self, functions: Sequence[Callable[..., Any]], traits: Sequence[ModuleInfo]) -> None:
        self._functions = functions
        self._traits = traits
        self._kept: dict[int, _Kept] = {}

    def __call__(self, index: int, *arguments: Any) -> Any:
        """Evaluate function `index`, rewinding what an earlier evaluation of it drew and moved."""
        function, traits = self._functions[index], self._traits[index]
        device = _device(arguments)
        kept = self._kept.get(index)
        if kept is None:
            buffers = _copies(function) if traits.buffers else {}
            self._kept[index] = _Kept(device, _generators(device) if traits.random else (), buffers)
            return function(*arguments)
        with _rewound(kept.random, device):
            if not (kept.buffers and isinstance(function, nn.Module)):
                return function(*arguments)
            kept.latest = {name: buffer.clone() for name, buffer in kept.buffers.items()}
            return torch.func.functional_call(function, kept.latest, arguments)

    @contextmanager
    def rehearsed(self, device: torch.device) -> Iterator[None]:
        """Calls in this context leave generators and buffers as they were."""
        random = _generators(device) if any(traits.random for traits in self._traits) else ()
        moving = [f for f, traits in zip(self._functions, self._traits, strict=True) if traits.buffers]
        before = [_copies(function) for function in moving]
        try:
            yield
        finally:
            if random:
                _set_generators(random, device)
            with torch.no_grad():
                for function, buffers in zip(moving, before, strict=True):
                    _restore(function, buffers)

    def undo(self) -> None:
        """Make generators and buffers what they were before the first call; the last one to be put back wins."""
        for index, kept in reversed(self._kept.items()):
            function = self._functions[index]
            if kept.random:
                _set_generators(kept.random, kept.device)
            if kept.buffers and isinstance(function, nn.Module):
                with torch.no_grad():
                    _restore(function, kept.buffers)
        self._kept.clear()

    def settle(self) -> None:
        """Move the buffers of every repeated layer once, as its last evaluation did."""
        for index, kept in self._kept.items():
            function = self._functions[index]
            if kept.latest is None or not isinstance(function, nn.Module):
                continue
            with torch.no_grad():
                _restore(function, kept.latest)
            kept.latest = None


def _device(arguments: tuple[Any, ...]) -> torch.device:
    first = arguments[0]
    if isinstance(first, Tensor):
        return first.device
    return next((leaf.device for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)), torch.device("cpu"))


def _copies(function: Any) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for name, buffer in function.named_buffers()}


def _restore(function: Any, buffers: dict[str, Tensor]) -> None:
    for name, buffer in function.named_buffers():
        buffer.copy_(buffers[name])


def _generators(device: torch.device) -> tuple[Tensor, ...]:
    host = (torch.get_rng_state(),)
    return host if device.type == "cpu" else (*host, torch.get_device_module(device).get_rng_state(device))


@contextmanager
def _rewound(states: tuple[Tensor, ...], device: torch.device) -> Iterator[None]:
    if not states:
        yield
        return
    now = _generators(device)
    _set_generators(states, device)
    try:
        yield
    finally:
        _set_generators(now, device)


def _set_generators(states: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1], device)

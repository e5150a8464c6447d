"""Users' own backwards in graph that several sites share: each site calls them with its part of the gradient."""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from worldsheet.core.errors import LayerError
from worldsheet.cut.walk import Node

_ROUNDING = 1e4  # in units of the dtype's


@final
class Parts:
    """Notes with what each user's backward is called, and says afterwards whether the parts make up the whole.

    Autograd would call it once, with the sum. For a backward that is linear in the gradient that is the same.

    Args:
        nodes: what several sites share; the graph is kept.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        own: list[Any] = [node for node in nodes if isinstance(node, BackwardCFunction)]
        self._given: list[tuple[Any, list[tuple[Tensor | None, ...]]]] = [(node, []) for node in own]
        self._handles = [node.register_prehook(calls.append) for node, calls in self._given]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._given)

    def check(self) -> None:
        """Compare what the parts gave with what their sum gives.

        Raises:
            LayerError: they differ.
        """
        for handle in self._handles:
            handle.remove()
        for node, calls in self._given:
            if len(calls) > 1 and not _is_linear(node, calls):
                name = node.name().removesuffix("Backward")
                raise LayerError(
                    f"{name} is called outside of all sites, is read by several of them, and has a backward that is "
                    "not linear",
                    "such functions inside of a site, or read by one site",
                    "put it into a submodule with the weights around it, or name such a module in blocks=",
                )


@torch.no_grad()
def _is_linear(node: Any, calls: list[tuple[Tensor | None, ...]]) -> bool:
    whole = [_sum(parts) for parts in zip(*calls, strict=True)]
    if any(part is None for call in calls for part in call):
        return False  # what stands for nothing is the function's own affair
    apart = [_tuple(node.apply(*call)) for call in calls]
    pairs = zip([_sum(parts) for parts in zip(*apart, strict=True)], _tuple(node.apply(*whole)), strict=True)
    return all(_close(one, other) for one, other in pairs)


def _sum(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    total: Tensor | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    scale = float(torch.maximum(one.abs().max(), other.abs().max())) if one.numel() else 0.0
    return float((one - other).abs().sum()) <= _ROUNDING * torch.finfo(one.dtype).eps * max(scale, 1e-30) * one.numel()


def _tuple(returned: Any) -> tuple[Any, ...]:
    return returned if isinstance(returned, tuple) else (returned,)

"""From parameter efforts to gradients: summed over uses and added as autograd adds."""

from collections.abc import Iterable

import torch
from torch import Tensor

from worldsheet.cut import deliver, is_watched


def sum_uses(efforts: Iterable[tuple[Tensor, Tensor | None]]) -> list[tuple[Tensor, Tensor]]:
    """One gradient per parameter, tied uses summed; parameters that nothing used are left out."""
    totals: dict[int, tuple[Tensor, Tensor]] = {}
    for parameter, effort in efforts:
        if effort is None:
            continue
        known = totals.get(id(parameter))
        totals[id(parameter)] = (parameter, effort if known is None else _sum(known[1], effort))
    return list(totals.values())


def accumulate(gradients: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Add gradients, each in memory of its own, to `.grad`, or set it where there is none, as `loss.backward()` does.

    A new `.grad` has its leaf's layout. Where hooks of the user's wait for a leaf's gradient, torch accumulates it.
    """
    for leaf, gradient in gradients:
        if is_watched(leaf):
            deliver([(leaf, gradient)])
            continue
        if leaf.grad is not None:
            leaf.grad = _sum(leaf.grad, gradient) if leaf.grad.is_sparse else leaf.grad.add_(gradient)
        elif gradient.is_sparse or gradient.stride() == leaf.stride():
            leaf.grad = gradient
        else:
            leaf.grad = torch.empty_like(leaf).copy_(gradient)


def _sum(one: Tensor, other: Tensor) -> Tensor:
    """Torch adds sparse to dense, but not dense to sparse."""
    return other + one if one.is_sparse and not other.is_sparse else one + other

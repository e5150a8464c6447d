"""From parameter efforts to gradients: summed over uses, owned by nobody else, added as autograd adds."""

from collections.abc import Iterable

import torch
from torch import Tensor


def sum_uses(efforts: Iterable[tuple[Tensor, Tensor | None]]) -> list[tuple[Tensor, Tensor]]:
    """One gradient per parameter, tied uses summed; parameters that nothing used are left out."""
    totals: dict[int, tuple[Tensor, Tensor]] = {}
    for parameter, effort in efforts:
        if effort is None:
            continue
        known = totals.get(id(parameter))
        totals[id(parameter)] = (parameter, effort if known is None else known[1] + effort)
    return list(totals.values())


def accumulate(gradients: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Add gradients to `.grad` in place, or set it where there is none, as `loss.backward()` does.

    A gradient is kept as it is if its memory is nobody else's and laid out plainly; otherwise it is copied, since users
    write into `.grad`.
    """
    taken: set[int] = set()
    for leaf, gradient in gradients:
        if leaf.grad is not None:
            leaf.grad += gradient
        elif gradient.layout is not torch.strided:
            leaf.grad = gradient
        elif gradient.data_ptr() not in taken and gradient.is_contiguous() and leaf.is_contiguous():
            taken.add(gradient.data_ptr())
            leaf.grad = gradient
        else:
            leaf.grad = torch.empty_like(leaf).copy_(gradient)

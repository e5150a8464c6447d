"""Products of rows with a matrix, or of each site's rows with its own: torch's two families under one name.

A site dimension in front of the matrix tells which. One layer is no stack of one here: `bmm` on one matrix gives other
bits than `mm`, and `linear`, which knows rows of any shape, writes to no memory that is given.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Operation: TypeAlias = Callable[[], object]
"""One operation, its operands bound."""

Apply: TypeAlias = Callable[..., Tensor]
"""Runs a kernel on operands, at once or later, and returns where its result is; `out` is the memory for it."""


def _call(kernel: Callable[..., Tensor], *operands: object, **constants: object) -> Tensor:
    return kernel(*operands, **constants)


at_once: Apply = getattr(operator, "call", _call)  # from Python 3.11 on there is one that costs a fifth
"""Runs a kernel now, into new memory if `out` is None."""


@final
class Recording:
    """Keeps what is applied as operations, to be run again and again in the memory that it was given.

    Attributes:
        operations: in order.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def __call__(
        self, kernel: Callable[..., Tensor], *operands: object, out: Tensor | None, **constants: object
    ) -> Tensor:
        """Keep a kernel for later."""
        if out is None:
            raise ValueError("what is run later needs memory that is there already")
        self.operations.append(partial(kernel, *operands, out=out, **constants))
        return out


def linear(apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """The map x Wᵀ + b."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias) if out is None else apply(_linear, x, weight, bias, out=out)
    rows, turned, into = rows_of(x, weight), weight.mT, None if out is None else _view(out, weight)
    operands = (torch.bmm, rows, turned) if bias is None else (torch.baddbmm, bias, rows, turned)
    y = apply(*operands, out=into)
    return y.view(*x.shape[:-1], y.shape[-1]) if out is None else out


def add_linear(apply: Apply, base: Tensor, x: Tensor, weight: Tensor, scale: float, out: Tensor | None) -> Tensor:
    """Rows base + k x Wᵀ; `out` may be the base."""
    return apply(torch.addmm if weight.dim() == 2 else torch.baddbmm, base, x, weight.mT, alpha=scale, out=out)


def pull_linear(apply: Apply, credit: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    """The pull-back c W."""
    if weight.dim() == 2:
        return apply(torch.matmul, credit, weight, out=out)
    pulled = apply(torch.bmm, rows_of(credit, weight), weight, out=None if out is None else _view(out, weight))
    return pulled.view(*credit.shape[:-1], pulled.shape[-1]) if out is None else out


def effort_of(credits: Tensor, inputs: Tensor) -> Tensor:
    """The weight's effort cᵀx, of rows."""
    return (torch.mm if credits.dim() == 2 else torch.bmm)(credits.mT, inputs)


def rows_of(tensor: Tensor, weight: Tensor) -> Tensor:
    """As rows (row, feature), or (site, row, feature) for matrices of several sites, whatever is between."""
    return tensor if tensor.dim() == weight.dim() else tensor.reshape(*weight.shape[:-2], -1, tensor.shape[-1])


def trained(modules: Sequence[nn.Module], name: str) -> list[Tensor]:
    """One parameter of each module, none of them if none requires grad."""
    if len(modules) == 1:  # as for most: no lists to go through
        only = modules[0]._parameters[name]
        return [only] if only is not None and only.requires_grad else []
    owners: list[Tensor] = [each for module in modules if (each := module._parameters[name]) is not None]
    for owner in owners:
        if owner.requires_grad:
            return owners
    return []


def by_owner(owners: Sequence[Tensor], efforts: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Efforts told apart by site, of the parameters that require grad."""
    if efforts.dim() == owners[0].dim():
        return ((owners[0], efforts),)
    return tuple(pair for pair in zip(owners, efforts.unbind(), strict=True) if pair[0].requires_grad)


def _view(out: Tensor, weight: Tensor) -> Tensor:
    """The same rows in the same memory, or an error."""
    return out if out.dim() == weight.dim() else out.view(*weight.shape[:-2], -1, out.shape[-1])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    return out.copy_(F.linear(x, weight, bias))

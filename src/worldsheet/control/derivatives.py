"""Derivatives of one stage at a time, batched over stages and problems; the only file of control that asks for any."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.private_torch import run_backward

Function: TypeAlias = Callable[[Tensor], Tensor]
"""From points (..., d) to values (..., q), point by point."""

_FEW_POINTS = 4096  # below it a call costs its number of operations, above it their sizes


@final
@dataclass(frozen=True)
class Expansion:
    """Values of a function and derivatives of its weighted sum h = Σ_i weight_i value_i at each point.

    Attributes:
        values: (..., q).
        jacobian: of every value, (..., q, d).
        gradient: of h, (..., d).
        hessian: of h, (..., d, d), symmetric.
    """

    values: Tensor
    jacobian: Tensor
    gradient: Tensor
    hessian: Tensor


@final
class Local:
    """A function at points (..., d), differentiated once and then, with weights that may depend on that, again.

    Each point stands for itself: rows of a Jacobian are pulled back through one stage and no further. Where points are
    few, copies of them carry all rows in one pass; where they are many, rows take turns.

    Args:
        function: what is expanded.
        points: where.
        count: q, how many values it has.

    Attributes:
        values: (..., q).
    """

    def __init__(self, function: Function, points: Tensor, count: int) -> None:
        size = points.shape[-1]
        copies = max(size, count) if points.numel() // max(size, 1) <= _FEW_POINTS else 1
        with torch.enable_grad():
            self._spread = points.detach().expand(copies, *points.shape).clone().requires_grad_()
            self._values = function(self._spread)
        self.values = self._values[0].detach()

    def jacobian(self) -> Tensor:
        """(..., q, d): one pass for few points, q for many."""
        return _rows(self._values, self._spread)

    def curvature(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (..., d) and Hessian (..., d, d) of Σ weight_i value_i; weights (..., q) or (q,)."""
        with torch.enable_grad():
            total = (weights * self._values).sum()
            gradient = _pull(total, self._spread, torch.ones_like(total), keep=True)
            hessian = _rows(gradient, self._spread)
        return gradient[0].detach(), 0.5 * (hessian + hessian.mT)


def expand(function: Function, points: Tensor, weights: Tensor) -> Expansion:
    """Expand a function at points (..., d) to second order, its values weighted by (..., q)."""
    local = Local(function, points, weights.shape[-1])
    jacobian = local.jacobian()
    gradient, hessian = local.curvature(weights)
    return Expansion(local.values, jacobian, gradient, hessian)


def expand_one(function: Function, points: Tensor) -> Expansion:
    """Expand a function of a single value, (..., 1): its gradient is its Jacobian."""
    local = Local(function, points, 1)
    gradient, hessian = local.curvature(points.new_ones(1))
    return Expansion(local.values, gradient[..., None, :], gradient, hessian)


def slope(function: Function, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values (..., q) and the gradient (..., d) of their weighted sum: one evaluation and one pull-back."""
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        values = function(leaf)
        total = (weights * values).sum()
        gradient = _pull(total, leaf, torch.ones_like(total), keep=False)
    return values.detach(), gradient.detach()


def curvature(function: Function, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (..., d) and Hessian (..., d, d) of the weighted sum alone."""
    return Local(function, points, 1).curvature(weights)


def effort(values: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    """Gradients of Σ values with respect to parameters, None where there is no dependence."""
    if not values.requires_grad:
        return [None for _ in parameters]
    return list(_run(values, tuple(parameters), torch.ones_like(values), keep=False))


def _rows(values: Tensor, copies: Tensor) -> Tensor:
    """Jacobian (..., q, d) of values (c, ..., q) in points (c, ..., d): copy j carries rows j, j + c and so on."""
    count, rows = len(copies), values.shape[-1]
    basis = torch.eye(rows, dtype=values.dtype, device=values.device)
    found = []
    for first in range(0, rows, count):
        chosen = basis[first : first + count]
        used = len(chosen)
        if used < count:
            chosen = torch.nn.functional.pad(chosen, (0, 0, 0, count - used))
        cotangent = chosen.reshape(count, *[1] * (values.dim() - 2), rows).expand(values.shape)
        found.append(_pull(values, copies, cotangent, keep=False)[:used])
    rows_first = found[0] if len(found) == 1 else torch.cat(found)
    return torch.movedim(rows_first, 0, -2)


def _pull(values: Tensor, points: Tensor, cotangent: Tensor, *, keep: bool) -> Tensor:
    """cotangentᵀ ∂values/∂points; zero where values do not depend on points."""
    if not values.requires_grad:
        return torch.zeros_like(points)
    found = _run(values, (points,), cotangent, keep=keep)
    return torch.zeros_like(points) if found[0] is None else found[0]


def _run(values: Tensor, inputs: tuple[Tensor, ...], cotangent: Tensor, *, keep: bool) -> tuple[Tensor | None, ...]:
    """One pass of autograd's engine; `torch.autograd.grad` would check first what is ours anyway."""
    pulled: tuple[Tensor | None, ...] = run_backward(
        (values,), (cotangent,), True, keep, inputs, allow_unreachable=True, accumulate_grad=False
    )
    return pulled


def live_slope(function: Function, points: Tensor, weights: Tensor) -> Tensor:
    """The gradient (..., d) of the weighted sum, with its graph down to whatever the function closes over."""
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        total = (weights * function(leaf)).sum()
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True, materialize_grads=True)
    return gradient

"""The proximal step of a cost: what an output does that takes its wave in at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from worldsheet.core.errors import RelaxationError
from worldsheet.core.shapes import State

_NEWTON_STEPS, _PRODUCTS = 30, 60


def proximal(cost: Callable[[Tensor], Tensor], point: State, step: float) -> State:
    """Solve y + step·∇C(y) = point by Newton's method, with conjugate gradients on the cost alone.

    One Newton step for squared errors, a few for cross-entropy.

    Args:
        cost: C, a scalar function of the output.
        point: where the output would be without the cost.
        step: in units of state per costate.

    Raises:
        RelaxationError: a cost without such a step: not convex at this step, or not twice differentiable.
    """
    y = point.detach()
    wanted = 64 * torch.finfo(point.dtype).eps * max(float(point.norm()), 1e-30)
    best = float("inf")
    for _ in range(_NEWTON_STEPS):
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(cost(leaf), leaf, create_graph=True)
        misfit = (point - y - step * slope).detach()
        size = float(misfit.norm())
        if size <= wanted or (size >= best and size < 1e-4 * max(float(point.norm()), 1e-30)):
            return y
        best = min(best, size)
        y = y + _solved(leaf, slope, step, misfit)
    raise _without()


def _solved(leaf: Tensor, slope: Tensor, step: float, right: Tensor) -> Tensor:
    """(1 + step·∇²C)⁻¹ of the right-hand side."""
    solution, residual = torch.zeros_like(right), right
    direction, power = residual, float(residual.square().sum())
    goal = torch.finfo(right.dtype).eps ** 2 * power
    for _ in range(_PRODUCTS):
        bent = _bend(leaf, slope, direction) * step + direction
        stiffness = float((direction * bent).sum())
        if not stiffness > 0:
            raise _without()
        length = power / stiffness
        solution, residual = solution + length * direction, residual - length * bent
        before, power = power, float(residual.square().sum())
        if power <= goal:
            break
        direction = residual + power / before * direction
    return solution


def _bend(leaf: Tensor, slope: Tensor, direction: Tensor) -> Tensor:
    if not slope.requires_grad:
        return torch.zeros_like(direction)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(slope, leaf, direction, retain_graph=True, allow_unused=True)
    return torch.zeros_like(direction) if found[0] is None else found[0]


def _without() -> RelaxationError:
    return RelaxationError(
        "a loss without a proximal step at this impedance",
        "a loss that is twice differentiable, and convex or little curved where the output is",
        "use output=Output.EXPLICIT, which every loss has, or a smaller impedance",
    )

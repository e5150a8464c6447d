"""The proximal step of a cost: what an output does that takes its wave in at once."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import RelaxationError
from worldsheet.core.types import AnyState, Costate, State

_NEWTON_STEPS, _PRODUCTS, _HALVINGS = 30, 60, 40


@final
class Slope:
    """∇C at an output, recorded so that it can be differentiated once more.

    Args:
        cost: C, a scalar function of the output.
        output: where.

    Attributes:
        value: ∇C.
    """

    def __init__(self, cost: Callable[[Tensor], Tensor], output: State) -> None:
        with torch.enable_grad():
            self._output = output.detach().requires_grad_()
            (self._slope,) = torch.autograd.grad(cost(self._output), self._output, create_graph=True)
        self.value: Costate = self._slope.detach()

    def turned(self, tangent: AnyState) -> AnyState:
        """∇²C v; zero for a cost that is linear in the output."""
        if not self._slope.requires_grad:
            return torch.zeros_like(tangent)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            self._slope, self._output, tangent, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(tangent) if found[0] is None else found[0]


def proximal(cost: Callable[[Tensor], Tensor], point: State, step: float) -> State:
    """Solve y + step·∇C(y) = point by Newton's method, with conjugate gradients on the cost alone.

    One Newton step for squared errors, a few for cross-entropy. Where a cost flattens, Newton overshoots: steps are
    halved until ‖y − point‖²/2 + step·C(y), whose minimum the solution is, falls by a part of what its slope promises.

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
        slope = Slope(cost, y)
        misfit = point - y - step * slope.value
        size = float(misfit.norm())
        if size <= wanted or (size >= best and size < 1e-4 * max(float(point.norm()), 1e-30)):
            return y
        best = min(best, size)
        y = _lower(cost, point, step, y, _solved(slope, step, misfit), misfit)
    raise _without()


def _lower(
    cost: Callable[[Tensor], Tensor], point: State, step: float, y: State, direction: Tensor, misfit: Tensor
) -> State:
    """The longest of the steps 1, ½, ¼, … that lowers the energy of the proximal step by enough."""

    def energy(at: State) -> float:
        return float((at - point).square().sum()) / 2 + step * float(cost(at))

    start, promised, length = energy(y), float((misfit * direction).sum()), 1.0
    rounding = 8 * torch.finfo(y.dtype).eps * abs(start)
    for _ in range(_HALVINGS):
        if energy(y + length * direction) <= start - 1e-4 * length * promised + rounding:
            break
        length /= 2
    return y + length * direction


def _solved(slope: Slope, step: float, right: Tensor) -> Tensor:
    """(1 + step·∇²C)⁻¹ of the right-hand side."""
    solution, residual = torch.zeros_like(right), right
    direction, power = residual, float(residual.square().sum())
    goal = torch.finfo(right.dtype).eps ** 2 * power
    for _ in range(_PRODUCTS):
        bent = slope.turned(direction) * step + direction
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


def _without() -> RelaxationError:
    return RelaxationError(
        "the loss has no proximal step at this impedance",
        "a loss that is twice differentiable, and convex or little curved where the output is",
        "use output=Output.EXPLICIT, which every loss has, or a smaller impedance",
    )

"""How a solution moves with what its problem reads: one more linear solve with the matched impedance."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from worldsheet.control.derivatives import live_slope
from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_end, expand_stages
from worldsheet.control.lqr.riccati import matched_by_recursion
from worldsheet.control.lqr.subproblem import Quadratic, Step
from worldsheet.control.methods.kkt import YIELD, rolled_out
from worldsheet.control.methods.result import RawResult, Termination
from worldsheet.core.errors import InputError


class Live(NamedTuple):
    """Trajectories that carry gradients, (B, N + 1, nz) and (B, N, m), and the cost (B,)."""

    states: Tensor
    controls: Tensor
    cost: Tensor


class _Factors(NamedTuple):
    """The optimality conditions at a solution, to first order: what the backward pass solves with.

    `local` has slacks and multipliers eliminated, stage first; `jacobian` is of G (B, N, p, nz + m), `stiffness` is
    force/slack (B, N, p), `end` the Jacobian of ψ (B, k, nz).
    """

    problem: Discretised
    local: Quadratic
    jacobian: Tensor
    stiffness: Tensor
    end: Tensor
    solved: Tensor


def live(flat: Discretised, rest: RawResult, cost: Tensor) -> Live | None:
    """The solution with its dependence on initial states, parameters and whatever the problem's functions close over.

    At a solution every optimality condition R(w, θ) = 0 holds, so that dw = −K⁻¹ ∂R/∂θ dθ with the symmetric matrix K
    of Newton's equations (22): gradients by w are pulled back by one solve with K, then by autograd through R, stage
    by stage. The cost needs no solve (27). None if nothing requires grad, or the method knows no multipliers.

    Cost: two evaluations of all stages and one expansion; backward, one Riccati recursion and one pull-back of R.
    """
    if not torch.is_grad_enabled() or rest.inequality is None or rest.equality is None or rest.slacks is None:
        return None
    flat = flat.opened()
    points, last, size = torch.cat((rest.states[:, :-1], rest.controls), -1), rest.states[:, -1], flat.size
    values, end = flat.stages(points), flat.end(last)
    if not (flat.start.requires_grad or values.requires_grad or end.requires_grad):
        return None
    weights, ends = weights_of(rest.costates, rest.inequality, rest.equality)
    slope = live_slope(flat.stages, points, weights) if values.requires_grad else torch.zeros_like(points)
    end_slope = live_slope(flat.end, last, ends) if end.requires_grad else torch.zeros_like(last)
    lagrangian = (weights * values).sum((1, 2)) + (ends * end).sum(1) + (rest.costates[:, 0] * flat.start).sum(1)
    conditions = slope, end_slope, values[..., 1 : 1 + size], values[..., 1 + size :], end[..., 1:], flat.start
    factors = _factors(flat, rest, points, weights)
    return Live(*_apply(factors, rest.states, rest.controls, cost, lagrangian, *conditions))


def weights_of(costates: Tensor, inequality: Tensor, equality: Tensor) -> tuple[Tensor, Tensor]:
    """(1, λ⁺, μ) of every stage and (1, π) of the end: by them (L, F, G) and (φ, ψ) make the Lagrangian."""
    stage = torch.cat((torch.ones_like(costates[:, 1:, :1]), costates[:, 1:], inequality), -1)
    return stage, torch.cat((torch.ones_like(costates[:, 0, :1]), equality), -1)


@torch.no_grad()
def _factors(flat: Discretised, rest: RawResult, points: Tensor, weights: Tensor) -> _Factors:
    """Both expansions at the solution, the inequalities as stiffness and the end's constraint as a penalty."""
    assert rest.inequality is not None
    assert rest.slacks is not None
    assert rest.equality is not None
    closed = Discretised.of(flat.problem)
    _, ending = weights_of(rest.costates, rest.inequality, rest.equality)
    stage, end = expand_stages(closed, points, weights), expand_end(closed, rest.states[:, -1], ending)
    size = closed.size
    stiffness = rest.inequality / rest.slacks
    jacobian, target = stage.jacobian[..., 1 + size :, :], end.jacobian[..., 1:, :]
    hessian = stage.hessian + jacobian.mT @ (stiffness[..., None] * jacobian)
    onward = stage.jacobian[..., 1 : 1 + size, :]
    local = Quadratic(
        hessian.expand(*points.shape, points.shape[-1]).transpose(0, 1).contiguous(),
        torch.zeros_like(points.transpose(0, 1)),
        onward.transpose(0, 1).contiguous(),
        torch.zeros_like(rest.states[:, 1:].transpose(0, 1)),
        end.hessian + target.mT @ target / YIELD,
        torch.zeros_like(rest.states[:, -1]),
        torch.zeros_like(points[:, 0]),
        points[:, 0, :0],
    )
    return _Factors(closed, local, jacobian, stiffness, target, rest.terminations == Termination.CONVERGED)


@final
class _Solution(torch.autograd.Function):
    """States, controls and cost of a solution, as a function of its optimality conditions and its Lagrangian."""

    @staticmethod
    def forward(
        ctx: Any, factors: _Factors, states: Tensor, controls: Tensor, cost: Tensor, lagrangian: Tensor, *rest: Tensor
    ) -> Any:
        ctx.factors = factors
        ctx.shapes = states.shape, controls.shape
        ctx.set_materialize_grads(False)
        return states.clone(), controls.clone(), cost.clone()

    @staticmethod
    def backward(ctx: Any, states: Tensor | None, controls: Tensor | None, cost: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise InputError(
                "a solution of an optimal control problem has no second derivatives here",
                "first derivatives, with create_graph=False",
                "differentiate the first ones by finite differences, or solve the larger problem",
            )
        factors: _Factors = ctx.factors
        if cost is not None:
            _warn(~factors.solved & (cost != 0), _UNSOLVED)
            cost = torch.where(factors.solved, cost, 0.0)
        if states is None and controls is None:
            return None, None, None, None, cost, *[None] * 6
        states, controls = (
            factors.end.new_zeros(shape) if each is None else each
            for each, shape in zip((states, controls), ctx.shapes, strict=True)
        )
        return None, None, None, None, cost, *_pulled_back(factors, states, controls)


_apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Solution.apply

_UNSOLVED = "did not converge: they carry no gradient; raise max_ticks, or leave them out of the loss by `converged`"
_NO_MINIMUM = "ended where there is no derivative: give every control a cost that curves, or leave them out of the loss"


def _warn(lost: Tensor, reason: str) -> None:
    if bool(lost.any()):
        warnings.warn(f"{int(lost.sum())} of {len(lost)} problems {reason}", stacklevel=3)


def _pulled_back(factors: _Factors, states: Tensor, controls: Tensor) -> list[Tensor]:
    """By condition of `live`, what gradients by states and controls come to; zero for problems that carry none."""
    step, pull, fine = _answered(factors, torch.cat((states[:, :-1], controls), -1), states[:, -1])
    asked = (states != 0).flatten(1).any(1) | (controls != 0).flatten(1).any(1)
    _warn(asked & ~factors.solved, _UNSOLVED)
    _warn(asked & factors.solved & ~fine, _NO_MINIMUM)
    moved = torch.cat((step.states[:-1], step.controls), -1).transpose(0, 1)
    force = factors.stiffness * (factors.jacobian @ moved[..., None])[..., 0]
    costates = step.costates.transpose(0, 1)
    found = moved, step.states[-1], costates[:, 1:], force, pull, costates[:, 0]
    carried = factors.solved & fine
    return [torch.where(carried.reshape(-1, *[1] * (part.dim() - 1)), part, 0.0) for part in found]


def _answered(factors: _Factors, slope: Tensor, end_slope: Tensor) -> tuple[Step, Tensor, Tensor]:
    """K w = −g: the step of the quadratic problem with slopes g, what ψ pulls with, and whether there is a minimum.

    The answers to g and to a pull by each row of ψ are found side by side; the pulls are those that ψ w = 0 needs.
    """
    count, rows = factors.end.shape[:2]
    every = torch.arange(count, device=slope.device).repeat(1 + rows)
    local = replace(
        factors.local.select(every),
        slope=torch.cat((slope, slope.new_zeros((rows * count, *slope.shape[1:])))).transpose(0, 1).contiguous(),
        end_slope=torch.cat((end_slope, *factors.end.unbind(1))),
    )
    steps, fine = rolled_out(
        factors.problem.select(every), local, matched_by_recursion(local), torch.zeros_like(local.end_slope)
    )
    ends = steps.states[-1].reshape(1 + rows, count, -1)
    missed = torch.einsum("bkn,jbn->bkj", factors.end, ends)
    pull = -(torch.linalg.pinv(missed[..., 1:]) @ missed[..., :1])[..., 0]
    shares = torch.cat((pull.new_ones((count, 1)), pull), 1).T[..., None]

    def summed(part: Tensor) -> Tensor:
        return (part.reshape(len(part), 1 + rows, count, -1) * shares).sum(1)

    step = Step(summed(steps.states), summed(steps.costates), summed(steps.controls), steps.gains[:, :count])
    return step, pull, fine.reshape(1 + rows, count).all(0)

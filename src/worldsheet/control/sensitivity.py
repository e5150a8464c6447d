"""How a solution moves with what its problem reads: one more linear solve with the matched impedance."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from worldsheet.control.derivatives import depends, live_slope
from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_end, expand_stages
from worldsheet.control.lqr.riccati import matched_by_recursion, rollout_of
from worldsheet.control.lqr.subproblem import Matched, Quadratic, Step
from worldsheet.control.methods.result import RawResult, Termination
from worldsheet.core.errors import InputError

_YIELD = 1e-6
_REFINEMENTS = 4
"""A terminal constraint is met by multipliers that are corrected a few times, each time by a penalty of 1/_YIELD."""


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
    flat = _opened(flat)
    points = torch.cat((rest.states[:, :-1], rest.controls), -1)
    given = flat.start.requires_grad or (flat.parameters is not None and flat.parameters.requires_grad)
    if not (given or depends(flat.stages, points) or depends(flat.end, rest.states[:, -1])):
        return None
    one = rest.states.new_ones((*rest.controls.shape[:-1], 1))
    weights = torch.cat((one, rest.costates[:, 1:], rest.inequality), -1)
    ends = torch.cat((torch.ones_like(cost)[:, None], rest.equality), -1)
    values, slope = live_slope(flat.stages, points, weights)
    end, end_slope = live_slope(flat.end, rest.states[:, -1], ends)
    size = flat.size
    lagrangian = (weights * values).sum((1, 2)) + (ends * end).sum(1) + (rest.costates[:, 0] * flat.start).sum(1)
    conditions = slope, end_slope, values[..., 1 : 1 + size], values[..., 1 + size :], end[..., 1:], flat.start
    factors = _factors(flat, rest, points, weights)
    return Live(*_apply(factors, rest.states, rest.controls, cost, lagrangian, *conditions))


def _opened(flat: Discretised) -> Discretised:
    """The same with initial states and parameters that are not detached."""
    problem = flat.problem
    state = problem.initial_state.expand(*problem.batch, problem.state_size).reshape(len(flat.start), -1)
    start = torch.nn.functional.pad(state, (0, flat.free))
    if problem.parameters is None:
        return replace(flat, start=start)
    extra = problem.parameters.expand(*problem.batch, problem.parameters.shape[-1])
    return replace(flat, start=start, parameters=extra.reshape(len(flat.start), 1, -1))


@torch.no_grad()
def _factors(flat: Discretised, rest: RawResult, points: Tensor, weights: Tensor) -> _Factors:
    """Both expansions at the solution, the inequalities as stiffness and the end's constraint as a penalty."""
    assert rest.inequality is not None
    assert rest.slacks is not None
    assert rest.equality is not None
    closed = Discretised.of(flat.problem)
    stage, end = expand_stages(closed, points, weights), expand_end(closed, rest.states[:, -1], rest.equality)
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
        end.hessian + target.mT @ target / _YIELD,
        torch.zeros_like(rest.states[:, -1]),
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
        return states.clone(), controls.clone(), cost.clone()

    @staticmethod
    def backward(ctx: Any, states: Tensor, controls: Tensor, cost: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise InputError(
                "second derivatives of a solution of an optimal control problem",
                "first derivatives, with create_graph=False",
                "differentiate the first ones by finite differences, or solve the larger problem",
            )
        factors: _Factors = ctx.factors
        states, controls, cost = (_of_solved(factors, each) for each in (states, controls, cost))
        slope = torch.cat((states[:, :-1], controls), -1)
        step, pull = _answered(factors, slope, states[:, -1])
        moved = torch.cat((step.states[:-1], step.controls), -1).transpose(0, 1)
        force = factors.stiffness * (factors.jacobian @ moved[..., None])[..., 0]
        costates = step.costates.transpose(0, 1)
        fixed = None, None, None, None
        return *fixed, cost, moved, step.states[-1], costates[:, 1:], force, pull, costates[:, 0]


_apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Solution.apply


def _of_solved(factors: _Factors, gradient: Tensor) -> Tensor:
    """Without those of problems that are not solved, which is said."""
    lost = ~factors.solved & (gradient != 0).reshape(len(gradient), -1).any(1)
    if bool(lost.any()):
        warnings.warn(
            f"{int(lost.sum())} of {len(lost)} problems did not converge: their trajectories carry no gradient; "
            "look at `converged`, raise max_ticks or leave them out of the loss",
            stacklevel=3,
        )
    return torch.where(factors.solved.reshape(-1, *[1] * (gradient.dim() - 1)), gradient, 0.0)


def _answered(factors: _Factors, slope: Tensor, end_slope: Tensor) -> tuple[Step, Tensor]:
    """K w = −g: the step of the quadratic problem whose slopes are the gradients, and what ψ pulls with."""
    pull = end_slope.new_zeros((len(end_slope), factors.end.shape[1]))
    for _ in range(_REFINEMENTS if pull.shape[1] else 1):
        end = end_slope + (factors.end.mT @ pull[..., None])[..., 0]
        local = replace(factors.local, slope=slope.transpose(0, 1).contiguous(), end_slope=end)
        matched = matched_by_recursion(local)
        step = rollout_of(local, matched, _start(factors.problem, matched))
        pull = pull + (factors.end @ step.states[-1, :, :, None])[..., 0] / _YIELD
    return step, pull


def _start(problem: Discretised, matched: Matched) -> Tensor:
    """δz_0: zero, but for a free duration, which moves to where its costate vanishes."""
    start = torch.zeros_like(problem.start)
    if problem.free:
        start[:, -1] = -matched.source[0, :, -1] / matched.impedance[0, :, -1, -1]
    return start

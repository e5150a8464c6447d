"""One Newton step on the optimality conditions, barrier for what is not allowed, all stages and problems at once."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.compiled.execution import mapped
from worldsheet.control.compiled.native import RegularizationSchedule
from worldsheet.control.discretized import Discretised
from worldsheet.control.lqr.parallel_scan import matched_by_scattering
from worldsheet.control.lqr.riccati import FEW_PROBLEMS, matched_by_recursion, rollout_of
from worldsheet.control.lqr.subproblem import Matched, Quadratic, Step, control_gain
from worldsheet.control.methods.active_set import response
from worldsheet.control.methods.iterate import ORDINARY, Conditions, Iterate

YIELD = 1e-6  # a terminal constraint gives way by this much per unit of multiplier within one step, and not at rest
_FIRST, _RATIO, _RUNGS = 1e-4, 8.0, 9  # what is tried on Hessians that are not convex, all at once


@final
@dataclass(frozen=True)
class Direction:
    """Where a step would go, leading dimension B, with the impedance that it came from.

    Attributes:
        states: δz, (B, N + 1, nz).
        costates: δλ.
        controls: δu, (B, N, m).
        slacks: δs, (B, N, p).
        forces: δforce.
        pulls: δpull, (B, k).
        shift: what was added to the Hessians, (B,).
        fine: whether the step leads to a minimum of the local problem and is finite, (B,).
        gains: K, (B, N, m, nz).
    """

    states: Tensor
    costates: Tensor
    controls: Tensor
    slacks: Tensor
    forces: Tensor
    pulls: Tensor
    shift: Tensor
    fine: Tensor
    gains: Tensor

    def select(self, index: Tensor) -> "Direction":
        """Some of the problems."""
        return mapped(lambda part: part[index], self)


def direction(problem: Discretised, at: Iterate, local: Quadratic, wanted: Tensor) -> tuple[Step, Tensor, Tensor]:
    """Solve (22), with the smallest shift of the Hessians that makes the step lead downhill: step, shift and whether.

    A problem that has needed no shift tries none first; another one tries a third of the last. Only those that are
    wanted (B,) try others.
    """
    first = at.costates[:, 0]
    native = problem.execution.recursion(at.shift, (at.states.shape[-1], at.controls.shape[-1]))
    if native is not None:
        schedule = RegularizationSchedule(first, at.shift, wanted, _FIRST, _RATIO, _RUNGS)
        return native.direction(local, schedule, free=problem.free)
    shift = torch.where(at.shift > 3 * _FIRST, at.shift / 3, 0.0)
    step, fine = _solved(problem, local, first, shift, wanted)
    bad = (wanted & ~fine).nonzero().flatten()
    if len(bad):
        candidates = at.shift[bad].clamp(min=_FIRST) * _rungs(at.shift)
        other, lifted, helped = _smallest_fine(problem.select(bad), local.select(bad), first[bad], candidates)
        step = mapped(lambda one, new: one.index_copy(1, bad, new), step, other)
        shift, fine = shift.index_copy(0, bad, lifted), fine.index_copy(0, bad, helped)
    return step, shift, fine


def _rungs(like: Tensor) -> Tensor:
    return (_RATIO ** torch.arange(_RUNGS, dtype=like.dtype, device=like.device))[:, None]


def _smallest_fine(
    problem: Discretised, local: Quadratic, first: Tensor, candidates: Tensor
) -> tuple[Step, Tensor, Tensor]:
    """Try all shifts of (J, B) at once and keep each problem's smallest that works, else the largest."""
    tried, count = candidates.shape
    column = torch.arange(count, device=candidates.device)
    many = column.repeat(tried)
    every = torch.ones_like(many, dtype=torch.bool)
    step, fine = _solved(problem.select(many), local.select(many), first[many], candidates.flatten(), every)
    table = fine.reshape(tried, count)
    chosen_row = torch.where(table.any(0), table.to(torch.int8).argmax(0), tried - 1)
    chosen = chosen_row * count + column
    return mapped(lambda part: part[:, chosen], step), candidates.flatten()[chosen], fine[chosen]


def _solved(
    problem: Discretised, local: Quadratic, first: Tensor, shift: Tensor, wanted: Tensor
) -> tuple[Step, Tensor]:
    """Match and ride: by products of scatterers for few problems, or where those meet a singular R by recursion."""
    if len(shift) < FEW_PROBLEMS:
        step, fine, reached = problem.execution.run(_by_products, problem, local, first, shift)
        if bool((reached | ~wanted).all()):
            return step, fine
    lifted = local.lifted(shift)
    return rolled_out(problem, lifted, matched_by_recursion(lifted), first)


def _by_products(problem: Discretised, local: Quadratic, first: Tensor, shift: Tensor) -> tuple[Step, Tensor, Tensor]:
    """A step, whether it is fine, and whether its impedance is finite."""
    lifted = local.lifted(shift)
    matched = matched_by_scattering(lifted)
    return *rolled_out(problem, lifted, matched, first), matched.impedance.isfinite().flatten(2).all(-1).all(0)


def rolled_out(problem: Discretised, local: Quadratic, matched: Matched, first: Tensor) -> tuple[Step, Tensor]:
    """The wave up; free entries of z_0 move to where their costates, `first` (B, nz) before, vanish."""
    start = torch.zeros_like(problem.start)
    fine = matched.convex
    if problem.free:
        given = problem.size - problem.free
        push = (matched.source[0] + first)[:, given:]
        moved, convex = control_gain(matched.impedance[0, :, given:, given:], push[..., None])
        fine = fine & convex
        start = torch.cat((start[:, :given], moved[..., 0]), -1)
    step = rollout_of(local, matched, start)
    finite = step.states.isfinite().all(-1).all(0) & step.costates.isfinite().all(-1).all(0)
    return step, fine & finite


def condensed(problem: Discretised, at: Iterate, found: Conditions) -> Quadratic:
    """(22) with slacks, forces and pulls eliminated: they stiffen the Hessians and push on the slopes."""
    size = problem.size
    hessian, slope = found.stage.hessian, found.slope
    if at.slacks.shape[-1]:
        jacobian = found.stage.jacobian[..., 1 + size :, :]
        ratio, push = _response(at, found)
        hessian = hessian + jacobian.mT @ (ratio[..., None] * jacobian)
        slope = slope + (jacobian.mT @ push[..., None])[..., 0]
    end_hessian, end_slope = found.end.hessian, found.end_slope
    if at.pulls.shape[-1]:
        jacobian = found.end.jacobian[..., 1:, :]
        stiff = _stiffness(at)
        end_hessian = end_hessian + jacobian.mT @ (stiff[..., None] * jacobian)
        end_slope = end_slope + (jacobian.mT @ (stiff * found.target())[..., None])[..., 0]
    return Quadratic(
        hessian.transpose(0, 1).contiguous(),
        slope.transpose(0, 1).contiguous(),
        found.stage.jacobian[..., 1 : 1 + size, :].transpose(0, 1).contiguous(),
        found.gap.transpose(0, 1).contiguous(),
        end_hessian,
        end_slope,
        at.regularizer,
        _opening(problem, at),
    )


def _opening(problem: Discretised, at: Iterate) -> Tensor:
    """What regularises the free entries of z_0, (B, nz): their sizes are its units; (B, 0) where there are none.

    θ, which has no unit, is regularised at every stage.
    """
    size, known = problem.size - problem.timed, problem.problem.state_size
    if problem.free == problem.timed:
        return at.sizes[:, :0]
    guess = problem.start[:, known:size].abs()
    sizes = torch.cat((at.sizes[:, :known], torch.where(guess > 0, guess, 1.0)), -1)
    units = torch.nn.functional.pad(sizes.square().reciprocal(), (0, problem.timed))
    given = problem.size - problem.free
    return torch.cat((torch.zeros_like(units[:, :given]), units[:, given:]), -1)


def _stiffness(at: Iterate) -> Tensor:
    """What holds each terminal constraint within one step, (B, k): the same whatever it is measured in.

    All that are within two orders of magnitude of 1 are held alike.
    """
    ordinary = (at.end_sizes >= 1) & (at.end_sizes <= ORDINARY)
    firm = 1 / (YIELD * torch.where(ordinary, 1.0, at.end_sizes).square())
    return torch.where(at.restoring[:, None], at.end_sizes.square().reciprocal(), firm)


def _response(at: Iterate, found: Conditions) -> tuple[Tensor, Tensor]:
    """How a step changes forces: by push + ratio · δG, so that s · force is at the barrier to first order."""
    ratio = at.forces / at.slacks
    push = at.barrier[:, None, None] / at.slacks + ratio * found.inequality()
    push = push + torch.where(at.restoring[:, None, None], at.forces, 0.0)  # which have no weight in `slope` there
    if not at.warm:
        return ratio, push
    stiff, pushed = response(at, found)
    return torch.where(at.kept, stiff, ratio), torch.where(at.kept, pushed, push)


def expanded(at: Iterate, found: Conditions, step: Step, shift: Tensor, fine: Tensor) -> Direction:
    """A step with the slacks, forces and pulls that were eliminated."""
    size = at.states.shape[-1]
    states, costates, controls = (part.transpose(0, 1) for part in (step.states, step.costates, step.controls))
    slacks, forces, pulls = at.slacks, at.forces, at.pulls
    if slacks.shape[-1]:
        moved = torch.cat((states[:, :-1], controls), -1)
        change = (found.stage.jacobian[..., 1 + size :, :] @ moved[..., None])[..., 0]
        forces = (at.barrier[:, None, None] + at.forces * (found.inequality() + change)) / at.slacks
        if at.warm:
            ratio, push = _response(at, found)
            forces = torch.where(at.kept, push + ratio * change, forces)
        slacks = -found.misfit - change
    if pulls.shape[-1]:
        pulls = (found.target() + (found.end.jacobian[..., 1:, :] @ states[:, -1, :, None])[..., 0]) * _stiffness(at)
    return Direction(states, costates, controls, slacks, forces, pulls, shift, fine, step.gains.transpose(0, 1))

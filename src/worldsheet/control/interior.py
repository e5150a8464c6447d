"""One Newton step on the optimality conditions, barrier for what is not allowed, all stages and problems at once."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.iterate import Conditions, Iterate
from worldsheet.control.quadratic import Quadratic, Step
from worldsheet.control.records import mapped
from worldsheet.control.riccati import match, ride
from worldsheet.control.stage import Discretised

_YIELD = 1e-6  # a terminal constraint gives way by this much per unit of multiplier within one step, and not at rest
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


def direction(problem: Discretised, at: Iterate, found: Conditions) -> Direction:
    """Solve (22), with the smallest shift of the Hessians that makes the step lead downhill.

    A problem that has needed no shift tries none first; another one tries a third of the last.
    """
    local = _condensed(problem, at, found)
    shift = torch.where(at.shift > 3 * _FIRST, at.shift / 3, torch.zeros_like(at.shift))
    step, fine = _solved(problem, local, at, shift)
    bad = (~fine).nonzero().flatten()
    if len(bad):
        ladder = torch.maximum(at.shift[bad], at.shift.new_tensor(_FIRST)) * _rungs(at.shift)
        other, lifted, helped = _smallest_fine(problem.select(bad), local.select(bad), at.select(bad), ladder)
        step = mapped(lambda one, new: one.index_copy(1, bad, new), step, other)
        shift, fine = shift.index_copy(0, bad, lifted), fine.index_copy(0, bad, helped)
    return _expanded(problem, at, found, step, shift, fine)


def _rungs(like: Tensor) -> Tensor:
    return (_RATIO ** torch.arange(_RUNGS, dtype=like.dtype, device=like.device))[:, None]


def _smallest_fine(problem: Discretised, local: Quadratic, at: Iterate, ladder: Tensor) -> tuple[Step, Tensor, Tensor]:
    """Try all shifts of (J, B) at once and keep each problem's smallest that works, else the largest."""
    rungs, count = ladder.shape
    column = torch.arange(count, device=ladder.device)
    many = column.repeat(rungs)
    step, fine = _solved(problem.select(many), local.select(many), at.select(many), ladder.flatten())
    table = fine.reshape(rungs, count)
    rung = torch.where(table.any(0), table.to(torch.int8).argmax(0), rungs - 1)
    chosen = rung * count + column
    return mapped(lambda part: part[:, chosen], step), ladder.flatten()[chosen], fine[chosen]


def _solved(problem: Discretised, local: Quadratic, at: Iterate, shift: Tensor) -> tuple[Step, Tensor]:
    """Match and ride; a free entry of z_0 moves to where its costate vanishes."""
    matched = match(local.lifted(shift) if bool(shift.any()) else local)
    start = torch.zeros_like(problem.start)
    fine = matched.convex
    if problem.free:
        curve = matched.impedance[0, :, -1, -1]
        fine = fine & (curve > 0)
        start[:, -1] = -(matched.source[0, :, -1] + at.costates[:, 0, -1]) / curve
    step = ride(local, matched, start)
    finite = step.states.isfinite().all(-1).all(0) & step.costates.isfinite().all(-1).all(0)
    return step, fine & finite


def _condensed(problem: Discretised, at: Iterate, found: Conditions) -> Quadratic:
    """(22) with slacks, forces and pulls eliminated: they stiffen the Hessians and push on the slopes."""
    size = problem.size
    hessian, slope = found.stage.hessian, found.slope
    if at.slacks.shape[-1]:
        jacobian = found.stage.jacobian[..., 1 + size :, :]
        ratio = at.forces / at.slacks
        push = at.barrier[:, None, None] / at.slacks + ratio * found.inequality()
        hessian = hessian + jacobian.mT @ (ratio[..., None] * jacobian)
        slope = slope + (jacobian.mT @ push[..., None])[..., 0]
    end_hessian, end_slope = found.end.hessian, found.end_slope
    if at.pulls.shape[-1]:
        jacobian = found.end.jacobian[..., 1:, :]
        end_hessian = end_hessian + jacobian.mT @ jacobian / _YIELD
        end_slope = end_slope + (jacobian.mT @ found.target()[..., None])[..., 0] / _YIELD
    return Quadratic(
        hessian.transpose(0, 1).contiguous(),
        slope.transpose(0, 1).contiguous(),
        found.stage.jacobian[..., 1 : 1 + size, :].transpose(0, 1).contiguous(),
        found.gap.transpose(0, 1).contiguous(),
        end_hessian,
        end_slope,
    )


def _expanded(
    problem: Discretised, at: Iterate, found: Conditions, step: Step, shift: Tensor, fine: Tensor
) -> Direction:
    """The eliminated slacks, forces and pulls of a step."""
    size = problem.size
    states, costates, controls = (part.transpose(0, 1) for part in (step.states, step.costates, step.controls))
    slacks, forces, pulls = at.slacks, at.forces, at.pulls
    if slacks.shape[-1]:
        moved = torch.cat((states[:, :-1], controls), -1)
        change = (found.stage.jacobian[..., 1 + size :, :] @ moved[..., None])[..., 0]
        forces = (at.barrier[:, None, None] + at.forces * (found.inequality() + change)) / at.slacks
        slacks = -found.misfit - change
    if pulls.shape[-1]:
        pulls = (found.target() + (found.end.jacobian[..., 1:, :] @ states[:, -1, :, None])[..., 0]) / _YIELD
    return Direction(states, costates, controls, slacks, forces, pulls, shift, fine, step.gains.transpose(0, 1))

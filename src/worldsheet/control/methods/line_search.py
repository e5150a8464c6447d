"""How far a step goes: far enough to make the cost or the violation of constraints smaller than all they once were."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.lqr.subproblem import Step
from worldsheet.control.methods.iterate import Conditions, Iterate
from worldsheet.control.methods.kkt import Direction, expanded
from worldsheet.control.methods.stagewise import valued

MEMORY = 16  # pairs that a filter holds

_KEEP = 0.995  # of the way to the boundary that slacks and forces go at most
_FALL = 1e-4  # of the promised decrease of the cost that must come true
_BETTER = 1e-5  # of the violation that a step must take away, from the violation or from the cost
_SMALL, _LARGE = 1e-4, 1e4  # violations next to which only the cost counts, and how far above the first none is allowed
_COST_POWER, _VIOLATION_POWER = 2.3, 1.1  # a step is for the cost where its promise weighs more than the violation
_HALVINGS = 12
_SHORT = 0.02  # the length of a step that gets nowhere


@final
@dataclass(frozen=True)
class Aim:
    """A step, and what is asked of it; leading dimension B.

    Attributes:
        step: where to.
        full: the longest length that is tried.
        slope: of the cost with barrier, per unit of length.
        here: cost with barrier and violation before the step, (B, 2).
        filter: pairs of them that it must beat in one of the two, (B, M, 2).
        limit: the largest violation that is allowed.
    """

    step: Direction
    full: Tensor
    slope: Tensor
    here: Tensor
    filter: Tensor
    limit: Tensor

    def select(self, index: Tensor) -> "Aim":
        """Of some of the problems."""
        rest = (self.full, self.slope, self.here, self.filter, self.limit)
        return Aim(self.step.select(index), *(part[index] for part in rest))

    def accepts(self, trial: Tensor, lengths: Tensor) -> Tensor:
        """Whether pairs (..., B, 2) at lengths (..., B) are good enough."""
        here = self.here
        beaten = torch.cat((self.filter, here[:, None]), 1)
        noise = 1e-13 * (1 + here[:, 0].abs())
        less = trial[..., None, 1] <= (1 - _BETTER) * beaten[..., 1]
        cheaper = trial[..., None, 0] <= beaten[..., 0] - _BETTER * beaten[..., 1] + noise[:, None]
        fallen = trial[..., 0] <= here[:, 0] + _FALL * lengths * self.slope + noise
        fallen = fallen | ~self.is_for_the_cost(lengths) | (here[:, 1] > _SMALL)
        return (less | cheaper).all(-1) & fallen & (trial[..., 1] <= self.limit) & trial[..., 1].isfinite()

    def is_for_the_cost(self, lengths: Tensor) -> Tensor:
        """Whether the decrease that a length promises outweighs the violation: such a step adds nothing to a filter."""
        promised = (-self.slope).clamp(min=0)
        return lengths * promised**_COST_POWER > self.here[:, 1] ** _VIOLATION_POWER


def search(
    problem: Discretised, at: Iterate, found: Conditions, moved: tuple[Step, Tensor, Tensor], wanted: Tensor
) -> Iterate:
    """The next iterate: its cost with barrier or its violation is smaller than here and than each pair in the filter.

    The full step is tried first, then all its halvings at once. A problem whose step is not fine, or fails at every
    length, stays where it is, counts a failure and gets a larger shift. `moved` is a step, its shift and whether it is
    fine; only problems that are wanted (B,) are helped.

    Reference:
        Wächter & Biegler, On the implementation of an interior-point filter line-search algorithm, 2006: its filter,
        without second-order corrections and with a second start in the place of its restoration phase.
    """
    run = problem.execution.run
    aim, points = run(_aimed, at, found, *moved)
    good = run(_judged, problem, at, aim, valued(problem, points))
    bad = wanted & aim.step.fine & ~good
    length, good = problem.execution.for_some(bad, _shortened, (problem, at, aim), (aim.full, good))
    return run(_settled, at, aim, length, good)


def _aimed(at: Iterate, found: Conditions, step: Step, shift: Tensor, fine: Tensor) -> tuple[Aim, Tensor]:
    """What is asked of a step, and the points of its full length."""
    whole = expanded(at, found, step, shift, fine)
    full = _room(at.slacks, whole.slacks)
    if at.warm:
        full = torch.where(at.kept[:, 0, 0], 1.0, full)
    here = _pair(found.stage.values, found.end.values, at.states, at.slacks, at)
    limit = torch.where(at.limit.isfinite(), at.limit, _LARGE * here[:, 1].clamp(min=1.0))
    return Aim(whole, full, _promised(at, found, whole), here, at.filter, limit), _points(at, whole, full)


def _judged(problem: Discretised, at: Iterate, aim: Aim, values: Tensor | None) -> Tensor:
    """Whether a step is fine and its full length low enough, (B,), by (L, F, G) there if they are known."""
    return aim.step.fine & aim.accepts(_tried(problem, at, aim.step, aim.full, values), aim.full)


def _shortened(problem: Discretised, at: Iterate, aim: Aim) -> tuple[Tensor, Tensor]:
    """The longest of all halvings that is low enough, and whether there is one, (B,)."""
    halvings = 0.5 ** torch.arange(1, _HALVINGS + 1, dtype=aim.full.dtype, device=aim.full.device)
    lengths = halvings[:, None] * aim.full
    values = valued(problem, _points(at, aim.step, lengths))
    fine = aim.accepts(_tried(problem, at, aim.step, lengths, values), lengths)
    return torch.where(fine, lengths, 0.0).amax(0), fine.any(0)


def _settled(at: Iterate, aim: Aim, length: Tensor, good: Tensor) -> Iterate:
    """Move by a length where that is good."""
    step = aim.step
    moved = _moved(at, step, torch.where(good, length, 0.0), torch.where(good, _room(at.forces, step.forces), 0.0))
    lifted = torch.where(good, step.shift, (10 * step.shift).clamp(min=1e-3))
    failures = torch.where(good, 0.0, at.failures + 1)
    short = torch.where(good & (length >= _SHORT), 0.0, at.short + 1)
    longer = torch.cat((aim.filter[:, 1:], aim.here[:, None]), 1)
    same = ~good | aim.is_for_the_cost(length)
    kept = torch.where(same[:, None, None], aim.filter, longer)
    return replace(moved, filter=kept, limit=aim.limit, shift=lifted, failures=failures, short=short)


def _pair(stage: Tensor, end: Tensor, states: Tensor, slacks: Tensor, at: Iterate) -> Tensor:
    """Cost with barrier, and sum of all violations, (..., B, 2), from values (L, F, G) and (φ, ψ).

    What a state of dynamics misses counts relative to its size; infinite where a function is not finite.
    """
    size = states.shape[-1]
    cost = stage[..., 0].sum(-1) + end[..., 0]
    gap = (stage[..., 1 : 1 + size] - states[..., 1:, :]) / at.sizes[:, None]
    violation = gap.abs().sum((-2, -1)) + (end[..., 1:] / at.end_sizes).abs().sum(-1)
    if slacks.shape[-1]:
        inequality = stage[..., 1 + size :]
        distance, missed = slacks, (inequality + slacks).abs()
        if at.warm:
            distance, missed = torch.where(at.kept, 1.0, slacks), torch.where(at.kept, inequality.clamp(min=0), missed)
        cost = cost - at.barrier * distance.log().sum((-2, -1))
        violation = violation + missed.sum((-2, -1))
    return torch.stack((cost, violation), -1).nan_to_num(torch.inf, torch.inf, torch.inf)


def _tried(problem: Discretised, at: Iterate, step: Direction, lengths: Tensor, values: Tensor | None = None) -> Tensor:
    """Cost and violation at lengths (..., B) of a step, (..., B, 2), by (L, F, G) there if they are known."""
    along = lengths[..., None, None]
    states, slacks = at.states + along * step.states, at.slacks + along * step.slacks
    with torch.no_grad():
        stage = problem.stages(_points(at, step, lengths)) if values is None else values
        return _pair(stage, problem.end(states[..., -1, :]), states, slacks, at)


def _points(at: Iterate, step: Direction, lengths: Tensor) -> Tensor:
    """(z, u) of every stage at lengths (..., B) of a step, (..., B, N, nz + m)."""
    along = lengths[..., None, None]
    return torch.cat(((at.states + along * step.states)[..., :-1, :], at.controls + along * step.controls), -1)


def _promised(at: Iterate, found: Conditions, step: Direction) -> Tensor:
    """The derivative of the cost with barrier along a step, (B,)."""
    moved = torch.cat((step.states[:, :-1], step.controls), -1)
    slope = (found.stage.jacobian[..., 0, :] * moved).sum((-2, -1))
    slope = slope + (found.end.jacobian[..., 0, :] * step.states[:, -1]).sum(-1)
    if at.slacks.shape[-1]:
        change = step.slacks / at.slacks
        change = torch.where(at.kept, 0.0, change) if at.warm else change
        slope = slope - at.barrier * change.sum((-2, -1))
    return slope


def _room(values: Tensor, change: Tensor) -> Tensor:
    """The longest step, at most 1, that keeps positive values positive, (B,)."""
    if not values.shape[-1]:
        return values.new_ones(len(values))
    shrinking = (-change / values).flatten(1).amax(-1)
    return (_KEEP / shrinking.clamp(min=_KEEP)).nan_to_num(0.0)


def _moved(at: Iterate, step: Direction, length: Tensor, dual: Tensor) -> Iterate:
    """Everything along the step, forces by their own length; what does not move is not touched by its NaNs."""

    def along(value: Tensor, change: Tensor, by: Tensor) -> Tensor:
        by = by.reshape(-1, *[1] * (value.dim() - 1))
        return torch.where(by > 0, value + by * change, value)

    slacks, forces = along(at.slacks, step.slacks, length), along(at.forces, step.forces, dual)
    if at.warm:
        moved = at.forces + length[:, None, None] * step.forces
        forces = torch.where(at.kept & (length > 0)[:, None, None], moved.clamp(min=0), forces)
    return replace(
        at,
        states=along(at.states, step.states, length),
        costates=along(at.costates, step.costates, length),
        controls=along(at.controls, step.controls, length),
        slacks=slacks,
        forces=forces,
        pulls=along(at.pulls, step.pulls, length),
    )

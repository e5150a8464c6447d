"""Feasibility before cost: what is violated is made smaller by itself, until the cost is asked again.

A search whose steps are tiny from the start has nearly always the same reason: the end is far away, and a straight step
towards it leaves the dynamics behind. Restoration is the Gauss-Newton method with a proximal term, by the matched
impedance as every other step: the cost does not count, costates and multipliers of the end are zero, so that Hessians
are those of the barrier, and the end is a cost, ½|ψ/size|². States follow the controls with the gains of the step and
leave behind as much of a gap as the step does, so that a long step makes no new ones.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.lqr.subproblem import Step
from worldsheet.control.methods.iterate import Conditions, Iterate
from worldsheet.control.methods.stagewise import Follow, evaluated, marched

_ENOUGH, _FRACTION = 1e-2, 0.1  # the largest violation with which restoration ends, and at most that part of the first
_NOTHING = 1e-6  # violations below this are none
_LENGTHS = 10  # how many are tried: 1, ½, ¼ …
_KEEP = 0.005  # of slacks and of the way to bounds that a step leaves at least
_PROXIMAL = 0.03  # the proximal term where violations are of size 1; it falls with their square
_SMALLEST = 1e-5  # what it grows from, where steps are short and where none is good
_SHORT, _GROWTH, _SHORT_GROWTH, _STUCK_GROWTH = 0.25, 3.0, 10.0, 30.0  # Newton's equations are tried with a third
_NOISE = 1e-8  # of the merit, below which it has not become smaller


def begun(at: Iterate) -> Iterate:
    """A start (B,) whose violation is made smaller first."""
    return replace(
        at,
        costates=torch.zeros_like(at.costates),
        pulls=torch.zeros_like(at.pulls),
        shift=torch.full_like(at.shift, _PROXIMAL),
        goal=torch.full_like(at.goal, torch.inf),
    )


def eased(at: Iterate, found: Conditions) -> Iterate:
    """Where problems are restored, a barrier that weighs no more than what is violated, and the goal at the start."""
    violated = _violated(at, found.target(), found.gap, found.misfit)
    least = 0.5 * violated.square() / max(1, at.slacks[0].numel())
    barrier = torch.where(at.restoring, torch.minimum(at.barrier, least), at.barrier)
    goal = (_FRACTION * violated).clamp(_NOTHING, _ENOUGH)
    held = at.restoring[:, None, None]
    return replace(
        at,
        barrier=barrier,
        forces=torch.where(held, barrier[:, None, None] / at.slacks, at.forces),
        goal=torch.where(at.goal.isinf(), goal, at.goal),
    )


@final
@dataclass(frozen=True)
class _Trial:
    """Where a length leads; leading dimension of all is lengths times problems.

    Attributes:
        states: (JB, N + 1, nz).
        controls: (JB, N, m).
        slacks: (JB, N, p).
        target: ψ, (JB, k).
        gap: what is left of gaps, (JB, N, nz).
        misfit: G + s, (JB, N, p).
    """

    states: Tensor
    controls: Tensor
    slacks: Tensor
    target: Tensor
    gap: Tensor
    misfit: Tensor


@torch.no_grad()
def restored(
    problem: Discretised, at: Iterate, found: Conditions, moved: tuple[Step, Tensor, Tensor], barrier: float
) -> Iterate:
    """The next iterate, at the length with the smallest merit; back to the search, with a barrier, where that will do.

    Cost: N evaluations of a stage one after the other, for all lengths at once.
    """
    step, shift, fine = moved
    count = len(at.barrier)
    lengths = 0.5 ** torch.arange(_LENGTHS, dtype=shift.dtype, device=shift.device)
    many = torch.arange(count, device=shift.device).repeat(_LENGTHS)
    here = at.select(many)
    trial = _tried(problem.select(many), here, found.gap[many], step.select(many), lengths.repeat_interleave(count))
    merits = _merit(here, trial.slacks, trial.target, trial.gap, trial.misfit).reshape(_LENGTHS, count)
    now = _merit(at, at.slacks, found.target(), found.gap, found.misfit)
    best, which = merits.min(0)
    good = fine & (best < now - _NOISE * (1 + now.abs()))
    chosen, length = which * count + many[:count], lengths[which]
    left = _violated(at, trial.target[chosen], trial.gap[chosen], trial.misfit[chosen])
    rows = good[:, None, None]
    after = replace(
        at,
        states=torch.where(rows, trial.states[chosen], at.states),
        controls=torch.where(rows, trial.controls[chosen], at.controls),
        slacks=torch.where(rows, trial.slacks[chosen], at.slacks),
        shift=torch.where(good, _proximal(shift, length, left), _STUCK_GROWTH * shift.clamp(min=_SMALLEST)),
        failures=torch.where(good, 0.0, at.failures + 1),
        limit=torch.ones_like(at.limit),
    )
    return _searching(problem, after, good & (left <= at.goal), barrier)


def _proximal(shift: Tensor, length: Tensor, violated: Tensor) -> Tensor:
    """The next proximal term: larger where a step had to be shortened, else a third, and no smaller than violations."""
    growth = torch.where(length < _SHORT, _SHORT_GROWTH, torch.where(length < 1, _GROWTH, 1.0))
    return torch.maximum(growth * shift.clamp(min=_SMALLEST), _PROXIMAL * violated.square().clamp(max=1.0))


def _searching(problem: Discretised, at: Iterate, ready: Tensor, barrier: float) -> Iterate:
    """Back to the search where problems are ready (B,): the cost counts, and a barrier begins anew.

    What has been restored is not given away again: of all the dynamics may miss no more than 1, and so may each row.
    """
    rows = at.slacks.shape[-1] - problem.limits.count
    lifted = torch.where(ready & (at.slacks[0].numel() > 0), barrier, at.barrier)
    return replace(
        at,
        barrier=lifted,
        forces=torch.where(ready[:, None, None], lifted[:, None, None] / at.slacks, at.forces),
        shift=torch.where(ready, 0.0, at.shift),
        limit=torch.where(ready, 1.0 + problem.steps * rows, at.limit),
        goal=torch.where(ready, 0.0, at.goal),
    )


def _tried(problem: Discretised, at: Iterate, gap: Tensor, step: Step, along: Tensor) -> _Trial:
    """Follow a step (N, JB, ...) at lengths (JB,) from stage to stage; what gaps a length does not close stay."""
    low, high = (side + _KEEP * (at.controls - side).nan_to_num(0.0, 0.0, 0.0) for side in problem.bounds)
    states, controls, gains = (part.transpose(0, 1) for part in (step.states, step.controls, step.gains))
    left, by = (1 - along)[:, None, None] * gap, along[:, None, None]
    aimed = at.controls + by * (controls - (gains @ states[:, :-1, :, None])[..., 0])
    first = at.states[:, 0] + along[:, None] * states[:, 0]
    fields = (aimed, at.states[:, :-1], gains.flatten(2), left, torch.cat((low, high), -1))
    path, held = marched(problem, _fed_back, first, *fields)
    values = evaluated(problem, torch.cat((path[:, :-1], held), -1))[..., 1 + problem.size :]
    slacks = torch.maximum(-values, _KEEP * at.slacks)
    return _Trial(path, held, slacks, problem.end(path[:, -1])[..., 1:], left, values + slacks)


def _fed_back(
    follow: Follow, state: Tensor, aimed: Tensor, around: Tensor, gains: Tensor, left: Tensor, limits: Tensor
) -> tuple[Tensor, Tensor]:
    """A control by its gains around a state, within bounds; what is left of the gap stays."""
    rows = gains.reshape(*aimed.shape, state.shape[-1])
    low, high = limits.chunk(2, -1)
    control = aimed + (rows * (state - around)[..., None, :]).sum(-1)
    control = torch.minimum(torch.maximum(control, low), high)
    return follow(state, control) - left, control


def _merit(at: Iterate, slacks: Tensor, target: Tensor, gap: Tensor, misfit: Tensor) -> Tensor:
    """½|ψ/size|² with barrier, and what dynamics and inequalities miss, (B,); infinite where that is no number."""
    missed = 0.5 * (target / at.end_sizes).square().sum(-1)
    missed = missed + (gap / at.sizes[:, None]).abs().sum((-2, -1)) + misfit.abs().sum((-2, -1))
    return (missed - at.barrier * slacks.log().sum((-2, -1))).nan_to_num(torch.inf, torch.inf, torch.inf)


def _violated(at: Iterate, target: Tensor, gap: Tensor, misfit: Tensor) -> Tensor:
    """The largest violation, of states and ends relative to their sizes, (B,)."""
    parts = (target / at.end_sizes, (gap / at.sizes[:, None]).flatten(1), misfit.flatten(1))
    return torch.cat(parts, -1).abs().amax(-1)

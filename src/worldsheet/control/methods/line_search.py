"""How far a step goes: a merit of cost and violation that need not fall at every tick."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.lqr.subproblem import Step
from worldsheet.control.methods.iterate import Conditions, Iterate
from worldsheet.control.methods.kkt import Direction, expanded
from worldsheet.control.methods.stagewise import valued

MEMORY = 4  # merits that a new one is compared with

_KEEP = 0.995  # of the way to the boundary that slacks and forces go at most
_FALL = 1e-4  # of the promised decrease that must come true
_HALVINGS = 12
_AT_ONCE = 8  # problems that try halvings at once where their number is fixed
_MARGIN = 0.1


@final
@dataclass(frozen=True)
class Aim:
    """A step, and what is asked of it; leading dimension B.

    Attributes:
        step: where to.
        full: the longest length that is tried.
        weight: of the constraints in the merit.
        past: merits, the last one this tick's.
        ceiling: what the merit must stay below.
        fall: how far below, per unit of length; not positive.
    """

    step: Direction
    full: Tensor
    weight: Tensor
    past: Tensor
    ceiling: Tensor
    fall: Tensor

    def accepts(self, trial: Tensor, lengths: Tensor, chosen: Tensor | slice) -> Tensor:
        """Whether merits (..., B, 2) at lengths (..., B) are low enough, for the chosen problems."""
        promised = self.ceiling[chosen] + lengths * self.fall[chosen]
        return trial[..., 0] + self.weight[chosen] * trial[..., 1] <= promised


def search(
    problem: Discretised, at: Iterate, found: Conditions, moved: tuple[Step, Tensor, Tensor], wanted: Tensor
) -> Iterate:
    """The next iterate: merit = cost + barrier + weight · violation falls enough below the largest of the last ticks.

    The full step is tried first, then all its halvings at once. A problem whose step is not fine, or fails at every
    length, stays where it is, counts a failure and gets a larger shift. `moved` is a step, its shift and whether it is
    fine; only problems that are wanted (B,) are helped.
    """
    run = problem.problem.execution.run
    aim, points = run(_aimed, at, found, *moved)
    values = valued(problem, points)
    good, after = run(_judged, problem, at, aim, values)
    length = aim.full
    bad = (wanted & aim.step.fine & ~good).nonzero().flatten()
    if not len(bad):
        return after
    halvings = 0.5 ** torch.arange(1, _HALVINGS + 1, dtype=length.dtype, device=length.device)
    shorter = halvings[:, None] * length[bad]
    trial = _tried_by_some(problem, at, aim.step, bad, shorter)
    fine = aim.accepts(trial, shorter, bad)
    first = fine.to(torch.int8).argmax(0)
    length = length.index_copy(0, bad, shorter.gather(0, first[None])[0])
    return run(_settled, at, aim, length, good.index_copy(0, bad, fine.any(0)))


def _tried_by_some(problem: Discretised, at: Iterate, step: Direction, some: Tensor, lengths: Tensor) -> Tensor:
    """The merit of some problems at lengths (J, some), (J, some, 2); by a fixed number at once where code is fixed."""
    execution = problem.problem.execution
    chosen = (problem.select(some), at.select(some), step.select(some), lengths)
    values = valued(chosen[0], _points(*chosen[1:]))
    if values is not None or not execution.fixed:
        return _tried(*chosen, values)
    width = min(_AT_ONCE, len(at.barrier))
    found = []
    for first in range(0, len(some), width):
        part, length = some[first : first + width], lengths[:, first : first + width]
        used = len(part)
        if used < width:
            part = torch.cat((part, part[:1].expand(width - used)))
            length = torch.cat((length, length[:, :1].expand(-1, width - used)), 1)
        chosen = (problem.select(part), at.select(part), step.select(part), length)
        found.append(execution.run(_tried, *chosen)[:, :used])
    return torch.cat(found, 1)


def _aimed(at: Iterate, found: Conditions, step: Step, shift: Tensor, fine: Tensor) -> tuple[Aim, Tensor]:
    """What is asked of a step, and the points of its full length."""
    whole = expanded(at, found, step, shift, fine)
    full = _room(at.slacks, whole.slacks)
    slope, bend = _promised(at, found, whole)
    here = _merit(found.stage.values, found.end.values, at.states, at.slacks, at)
    weight = (slope + 0.5 * bend.clamp(min=0)) / ((1 - _MARGIN) * here[..., 1] + 1e-14)
    weight = torch.maximum(weight, 0.5 * at.weight)
    past = torch.cat((at.past[:, 1:], here[:, None]), 1)
    ceiling = torch.where(past[..., 0].isfinite(), past[..., 0] + weight[:, None] * past[..., 1], -torch.inf).amax(-1)
    ceiling = ceiling + 1e-13 * (1 + here[:, 0].abs() + weight * here[:, 1])
    fall = _FALL * (slope - weight * here[..., 1]).clamp(max=0)
    return Aim(whole, full, weight, past, ceiling, fall), _points(at, whole, full)


def _judged(problem: Discretised, at: Iterate, aim: Aim, values: Tensor | None) -> tuple[Tensor, Iterate]:
    """Whether a step is fine and its full length low enough, (B,), and where it leads then; by (L, F, G) if known."""
    trial = _tried(problem, at, aim.step, aim.full, values)
    good = aim.step.fine & aim.accepts(trial, aim.full, slice(None))
    return good, _settled(at, aim, aim.full, good)


def _settled(at: Iterate, aim: Aim, length: Tensor, good: Tensor) -> Iterate:
    """Move by a length where that is good."""
    step = aim.step
    moved = _moved(at, step, torch.where(good, length, 0.0), torch.where(good, _room(at.forces, step.forces), 0.0))
    lifted = torch.where(good, step.shift, (10 * step.shift).clamp(min=1e-3))
    failures = torch.where(good, 0.0, at.failures + 1)
    return replace(moved, past=aim.past, weight=aim.weight, shift=lifted, failures=failures)


def _merit(stage: Tensor, end: Tensor, states: Tensor, slacks: Tensor, at: Iterate) -> Tensor:
    """Cost with barrier, and sum of all violations, (..., B, 2), from values (L, F, G) and (φ, ψ).

    What a state of dynamics misses counts relative to its size; infinite where a function is not finite.
    """
    size = states.shape[-1]
    cost = stage[..., 0].sum(-1) + end[..., 0]
    gap = (stage[..., 1 : 1 + size] - states[..., 1:, :]) / at.sizes[:, None]
    violation = gap.abs().sum((-2, -1)) + end[..., 1:].abs().sum(-1)
    if slacks.shape[-1]:
        cost = cost - at.barrier * slacks.log().sum((-2, -1))
        violation = violation + (stage[..., 1 + size :] + slacks).abs().sum((-2, -1))
    return torch.stack((cost, violation), -1).nan_to_num(torch.inf, torch.inf, torch.inf)


def _tried(problem: Discretised, at: Iterate, step: Direction, lengths: Tensor, values: Tensor | None = None) -> Tensor:
    """The merit at lengths (..., B) of a step, (..., B, 2), by (L, F, G) there if they are known."""
    along = lengths[..., None, None]
    states, slacks = at.states + along * step.states, at.slacks + along * step.slacks
    with torch.no_grad():
        stage = problem.stages(_points(at, step, lengths)) if values is None else values
        return _merit(stage, problem.end(states[..., -1, :]), states, slacks, at)


def _points(at: Iterate, step: Direction, lengths: Tensor) -> Tensor:
    """(z, u) of every stage at lengths (..., B) of a step, (..., B, N, nz + m)."""
    along = lengths[..., None, None]
    return torch.cat(((at.states + along * step.states)[..., :-1, :], at.controls + along * step.controls), -1)


def _promised(at: Iterate, found: Conditions, step: Direction) -> tuple[Tensor, Tensor]:
    """First and second derivative of cost and barrier along a step, (B,) each."""
    moved = torch.cat((step.states[:, :-1], step.controls), -1)
    last = step.states[:, -1]
    slope = (found.stage.jacobian[..., 0, :] * moved).sum((-2, -1)) + (found.end.jacobian[..., 0, :] * last).sum(-1)
    bend = (moved * (found.stage.hessian @ moved[..., None])[..., 0]).sum((-2, -1))
    bend = bend + (last * (found.end.hessian @ last[..., None])[..., 0]).sum(-1)
    if at.slacks.shape[-1]:
        relative = step.slacks / at.slacks
        slope = slope - at.barrier * relative.sum((-2, -1))
        bend = bend + at.barrier * relative.square().sum((-2, -1))
    return slope, bend


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

    return replace(
        at,
        states=along(at.states, step.states, length),
        costates=along(at.costates, step.costates, length),
        controls=along(at.controls, step.controls, length),
        slacks=along(at.slacks, step.slacks, length),
        forces=along(at.forces, step.forces, dual),
        pulls=along(at.pulls, step.pulls, length),
    )

"""How far a step goes: a merit of cost and violation that need not fall at every tick."""

from dataclasses import replace

import torch
from torch import Tensor

from worldsheet.control.interior import Direction
from worldsheet.control.iterate import Conditions, Iterate
from worldsheet.control.stage import Discretised

MEMORY = 4  # merits that a new one is compared with

_KEEP = 0.995  # of the way to the boundary that slacks and forces go at most
_FALL = 1e-4  # of the promised decrease that must come true
_HALVINGS = 12
_MARGIN = 0.1


def search(problem: Discretised, at: Iterate, found: Conditions, step: Direction) -> Iterate:
    """The next iterate: merit = cost + barrier + weight · violation falls enough below the largest of the last ticks.

    The full step is tried first, then all its halvings at once. A problem whose step is not fine, or fails at every
    length, stays where it is, counts a failure and gets a larger shift.
    """
    full = _room(at.slacks, step.slacks)
    slope, bend = _promised(at, found, step)
    here = _merit(found.stage.values, found.end.values, at.states, at.slacks, at.barrier)
    weight = (slope + 0.5 * bend.clamp(min=0)) / ((1 - _MARGIN) * here[..., 1] + 1e-8)
    weight = torch.maximum(weight, 0.5 * at.weight)
    past = torch.cat((at.past[:, 1:], here[:, None]), 1)
    ceiling = torch.where(past[..., 0].isfinite(), past[..., 0] + weight[:, None] * past[..., 1], -torch.inf).amax(-1)
    ceiling = ceiling + 1e-13 * (1 + here[:, 0].abs() + weight * here[:, 1])
    fall = _FALL * (slope - weight * here[..., 1]).clamp(max=0)

    def accepted(trial: Tensor, lengths: Tensor, chosen: Tensor | slice) -> Tensor:
        return trial[..., 0] + weight[chosen] * trial[..., 1] <= ceiling[chosen] + lengths * fall[chosen]

    good = step.fine & accepted(_tried(problem, at, step, full), full, slice(None))
    bad = (step.fine & ~good).nonzero().flatten()
    length = full
    if len(bad):
        halvings = 0.5 ** torch.arange(1, _HALVINGS + 1, dtype=full.dtype, device=full.device)
        shorter = halvings[:, None] * full[bad]
        fine = accepted(_tried(problem.select(bad), at.select(bad), step.select(bad), shorter), shorter, bad)
        first = fine.to(torch.int8).argmax(0)
        length = full.index_copy(0, bad, shorter.gather(0, first[None])[0])
        good = good.index_copy(0, bad, fine.any(0))
    moved = _moved(at, step, torch.where(good, length, 0), torch.where(good, _room(at.forces, step.forces), 0))
    lifted = torch.where(good, step.shift, (10 * step.shift).clamp(min=1e-3))
    return replace(moved, past=past, weight=weight, shift=lifted, failures=torch.where(good, 0, at.failures + 1))


def merit(problem: Discretised, states: Tensor, controls: Tensor, slacks: Tensor, barrier: Tensor) -> Tensor:
    """Cost with barrier, and sum of all violations, (..., B, 2); infinite where a function is not finite."""
    with torch.no_grad():
        stage = problem.stages(torch.cat((states[..., :-1, :], controls), -1))
        return _merit(stage, problem.end(states[..., -1, :]), states, slacks, barrier)


def _merit(stage: Tensor, end: Tensor, states: Tensor, slacks: Tensor, barrier: Tensor) -> Tensor:
    """From values (L, F, G) and (φ, ψ)."""
    size = states.shape[-1]
    cost = stage[..., 0].sum(-1) + end[..., 0]
    gap = stage[..., 1 : 1 + size] - states[..., 1:, :]
    violation = gap.abs().sum((-2, -1)) + end[..., 1:].abs().sum(-1)
    if slacks.shape[-1]:
        cost = cost - barrier * slacks.log().sum((-2, -1))
        violation = violation + (stage[..., 1 + size :] + slacks).abs().sum((-2, -1))
    return torch.stack((cost, violation), -1).nan_to_num(torch.inf, torch.inf, torch.inf)


def _tried(problem: Discretised, at: Iterate, step: Direction, lengths: Tensor) -> Tensor:
    """The merit at lengths (..., B) of a step, (..., B, 2)."""
    along = lengths[..., None, None]
    return merit(
        problem,
        at.states + along * step.states,
        at.controls + along * step.controls,
        at.slacks + along * step.slacks,
        at.barrier,
    )


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

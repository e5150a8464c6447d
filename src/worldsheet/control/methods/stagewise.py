"""What is found at every stage by itself, or stage after stage: by straight-line code where the execution has it.

An implicit integrator's stages are never compiled: how often their equations are iterated depends on values.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from worldsheet.control.derivatives import Expansion
from worldsheet.control.discretized import Discretised, Grid
from worldsheet.control.expansion import expand_stages

Follow: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From a state and a control to the state that follows."""

Move: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
"""From `Follow`, a state (..., nz) and fields of its stage (..., ·) to the next state and the control used."""


def expanded(problem: Discretised, points: Tensor, weights: Tensor) -> Expansion:
    """(L, F, G) at points (B, N, nz + m) to second order, by weights (B, N, 1 + nz + p)."""
    if problem.implicit:
        return expand_stages(problem, points, weights)
    found = _straight(problem, _expansion, _expansion, [points, weights])
    if found is not None:
        return Expansion(*found)
    return problem.execution.run(expand_stages, problem, points, weights)


def valued(problem: Discretised, points: Tensor) -> Tensor | None:
    """(L, F, G) at points (..., B, N, nz + m), or None where that can as well be part of compiled code."""
    if not problem.execution.makes_code:
        return None
    if problem.implicit:
        with torch.no_grad():
            return problem.stages(points)
    problem = replace(problem, parameters=_many(problem.parameters, points), ending=_many(problem.ending, points))
    found = _straight(problem, _values, _values, [points.reshape(-1, *points.shape[-2:])])
    return None if found is None else found[0].reshape(*points.shape[:-1], -1)


def _many(given: Tensor | None, points: Tensor) -> Tensor | None:
    """What is given (B, ·, ·), for points (..., B, N, nz + m) in one row."""
    return None if given is None else given.expand(*points.shape[:-2], -1, -1).reshape(-1, *given.shape[-2:])


@torch.no_grad()
def evaluated(problem: Discretised, points: Tensor) -> Tensor:
    """(L, F, G) at points (..., B, N, nz + m), by code or by torch."""
    found = valued(problem, points)
    return problem.stages(points) if found is None else found


def cost_of(problem: Discretised, states: Tensor, controls: Tensor) -> Tensor:
    """φ(z_N) + Σ_k L_k, (B,), infinite where a function is not finite."""
    stages = evaluated(problem, torch.cat((states[:, :-1], controls), -1))[..., 0]
    return (stages.sum(-1) + problem.end(states[:, -1])[..., 0]).nan_to_num(torch.inf, torch.inf, torch.inf)


def marched(problem: Discretised, move: Move, first: Tensor, *fields: Tensor) -> tuple[Tensor, Tensor]:
    """Move from stage to stage, from z_0 (B, nz) by fields (B, N, ·): states (B, N + 1, nz) and controls (B, N, m)."""

    def moved(here: Discretised, state: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
        def follow(state: Tensor, control: Tensor) -> Tensor:
            return here.carried(torch.cat((state, control), -1))[..., 1:]

        return move(follow, state, *own)

    if not problem.implicit:
        found = _straight(problem, (marched, move), moved, [first[:, None], *fields], in_turn=True)
        if found is not None:
            return torch.cat((first[:, None], found[0]), 1), found[1]
    states, controls = [first], list[Tensor]()
    for stage, parts in enumerate(zip(*(field.unbind(1) for field in fields), strict=True)):
        following, control = move(problem.instant(stage).following, states[-1], *parts)
        states.append(following)
        controls.append(control)
    return torch.stack(states, 1), torch.stack(controls, 1)


def _values(problem: Discretised, points: Tensor) -> tuple[Tensor, ...]:
    return (problem.stages(points),)


def _expansion(problem: Discretised, points: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    found = expand_stages(problem, points, weights)
    return found.values, found.jacobian, found.gradient, found.hessian.expand(*points.shape, points.shape[-1])


def _straight(
    problem: Discretised,
    name: Hashable,
    function: Callable[..., tuple[Tensor, ...]],
    fields: list[Tensor],
    *,
    in_turn: bool = False,
) -> list[Tensor] | None:
    """A function of a problem and fields (B, N, ·), one stage at a time; all that is a tensor goes in as a field.

    Functions of the same name do the same. None where there is no such code.
    """
    if not problem.execution.makes_code:
        return None
    whole, lead = problem.problem, fields[-1].shape[:2]
    given = [*fields, problem.time.expand(*lead, 1), *(part.expand(*lead, -1) for part in _by_stage(problem))]

    def of_one(*parts: Tensor) -> tuple[Tensor, ...]:
        own, time, rest = parts[: len(fields)], parts[len(fields)], list(parts[len(fields) + 1 :])
        return function(_of_one(problem, own[0], time[0, 0, 0], rest), *own)

    key = (name, whole.signature(), problem.limits.high, problem.limits.low)
    code = whole.execution.straight(key, of_one, given, in_turn=in_turn)
    return None if code is None else code(*given)


def _by_stage(problem: Discretised) -> list[Tensor]:
    """What a stage has of its own, in the order in which `_of_one` takes it."""
    grid, limits, parts = problem.grid, problem.limits, [problem.parameters, problem.ending]
    found = [grid.elapsed[:, None], grid.length[:, None], limits.top, limits.bottom]
    found += [part for part in (limits.held, problem.asked) if part is not None]
    found += [] if problem.first is None else [problem.first[:, None]]
    return found + [part for part in parts if part is not None]


def _of_one(problem: Discretised, point: Tensor, time: Tensor, parts: list[Tensor]) -> Discretised:
    """One stage (1, 1, ·) by itself."""

    def taken(there: Tensor | None) -> Tensor | None:
        return None if there is None else parts.pop(0)[0]

    elapsed, length, top, bottom = (parts.pop(0)[0, 0] for _ in range(4))
    limits = replace(problem.limits, top=top, bottom=bottom, held=taken(problem.limits.held))
    asked, first = taken(problem.asked), taken(problem.first)
    given, ending = (None if part is None else parts.pop(0) for part in (problem.parameters, problem.ending))
    first = first if first is None else first[:, 0]
    return replace(
        problem,
        start=point[:, 0, : problem.size],
        parameters=given,
        ending=ending,
        limits=limits,
        time=time,
        asked=asked,
        grid=Grid(elapsed, length),
        first=first,
    )

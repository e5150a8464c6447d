"""What is found at every stage by itself, or stage after stage: by straight-line code where the execution has it.

An implicit integrator's stages are never compiled: how often their equations are iterated depends on values.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from worldsheet.control.derivatives import Expansion
from worldsheet.control.discretized import Discretised
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
    if problem.parameters is not None:
        many = problem.parameters.expand(*points.shape[:-2], 1, -1)
        problem = replace(problem, parameters=many.reshape(-1, *many.shape[-2:]))
    found = _straight(problem, _values, _values, [points.reshape(-1, *points.shape[-2:])])
    return None if found is None else found[0].reshape(*points.shape[:-1], -1)


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
        following, control = move(
            partial(problem.following, stage=torch.full_like(problem.time, stage)), states[-1], *parts
        )
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
    whole, lead, limits = problem.problem, fields[-1].shape[:2], problem.limits
    count = torch.arange(lead[1], dtype=problem.time.dtype, device=problem.time.device)
    clock = count if problem.free else problem.time + whole.dt * count
    given = [
        *fields,
        problem.time.expand(*lead, 1),
        clock[:, None].expand(*lead, 1),
        limits.top.expand(*lead, -1),
        limits.bottom.expand(*lead, -1),
    ]
    if problem.asked is not None:
        given.append(problem.asked.expand(*lead, -1))
    if problem.parameters is not None:
        given.append(problem.parameters.expand(*lead, -1))

    def of_one(*parts: Tensor) -> tuple[Tensor, ...]:
        own, (start, clock, top, bottom, *extra) = parts[: len(fields)], parts[len(fields) :]
        asked = None if problem.asked is None else extra.pop(0)[0, 0]
        here = Discretised(
            whole,
            own[0][:, 0, : problem.size],
            extra[0] if extra else None,
            replace(limits, top=top[0, 0], bottom=bottom[0, 0]),
            start[0, 0, 0] if problem.free else clock[0, 0, 0],
            asked,
            clock[0, 0, 0] if problem.free else None,
        )
        return function(here, *own)

    key = (name, whole.signature(), limits.high, limits.low)
    code = whole.execution.straight(key, of_one, given, in_turn=in_turn)
    return None if code is None else code(*given)

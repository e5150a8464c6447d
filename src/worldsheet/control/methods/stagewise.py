"""What is found at every stage by itself: by straight-line code where the execution has it.

An implicit integrator's stages are never compiled: how often their equations are iterated depends on values.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from worldsheet.control.derivatives import Expansion
from worldsheet.control.discretized import Discretised, Grid
from worldsheet.control.expansion import expand_stages


def expanded(problem: Discretised, points: Tensor, weights: Tensor) -> Expansion:
    """(L, F, G) at points (B, N, nz + m) to second order, by weights (B, N, 1 + nz + p)."""
    if problem.implicit:
        return expand_stages(problem, points, weights)
    found = _straight(problem, _expansion, points, weights)
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
    found = _straight(problem, _values, points.reshape(-1, *points.shape[-2:]))
    return None if found is None else found[0].reshape(*points.shape[:-1], -1)


def _many(given: Tensor | None, points: Tensor) -> Tensor | None:
    """What is given (B, ·, ·), for points (..., B, N, nz + m) in one row."""
    return None if given is None else given.expand(*points.shape[:-2], -1, -1).reshape(-1, *given.shape[-2:])


def _values(problem: Discretised, points: Tensor) -> tuple[Tensor, ...]:
    return (problem.stages(points),)


def _expansion(problem: Discretised, points: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    found = expand_stages(problem, points, weights)
    return found.values, found.jacobian, found.gradient, found.hessian.expand(*points.shape, points.shape[-1])


def _straight(
    problem: Discretised, function: Callable[..., tuple[Tensor, ...]], *fields: Tensor
) -> list[Tensor] | None:
    """A function of a problem and fields (B, N, ·), one stage at a time; all that is a tensor goes in as a field.

    None where there is no such code.
    """
    if not problem.execution.makes_code:
        return None
    whole, lead = problem.problem, fields[0].shape[:2]
    given = [*fields, problem.time.expand(*lead, 1), *(part.expand(*lead, -1) for part in _by_stage(problem))]

    def of_one(*parts: Tensor) -> tuple[Tensor, ...]:
        own, time, rest = parts[: len(fields)], parts[len(fields)], list(parts[len(fields) + 1 :])
        return function(_of_one(problem, own[0], time[0, 0, 0], rest), *own)

    key = (function, whole.signature(), problem.limits.high, problem.limits.low)
    code = whole.execution.straight(key, of_one, given)
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

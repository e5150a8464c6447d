"""The unit of a cost: what fails in the unit that a user counts in is tried once more in one of its own.

Tolerances, barrier and regularisation are numbers that mean something beside a cost of about 0.1 to 1000. A cost that
changes by much more or much less than that near the start is divided by what it changes by, each problem of a batch by
its own, and costates and multipliers are multiplied by it in the end: the solution is that of the given cost. Before
that the problem is tried as it is, since what an unbounded control is measured in is a guess.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.control.compiled.execution import mapped
from worldsheet.control.discretized import Discretised
from worldsheet.control.given import END, STAGE, Given
from worldsheet.control.limits import PathLimit, joined, limits_of
from worldsheet.control.methods.history import History
from worldsheet.control.methods.initial_guess import Known, Start
from worldsheet.control.methods.newton import Matched, relax_matched
from worldsheet.control.methods.result import RawResult, Termination
from worldsheet.control.problem import Problem, unchecked

_SMALLEST, _LARGEST = 0.1, 1e3  # changes of a cost that are taken as they are
_FRACTION = 0.1  # of the size of a state or control, by which it is moved to see how the cost changes


@final
@dataclass(frozen=True)
class _Weighed:
    """A cost times the last parameter."""

    function: Callable[..., Tensor]
    count: int
    place: int

    def __call__(self, *arguments: Tensor) -> Tensor:
        return arguments[self.place][..., -1] * Given(self.function, self.count, self.place)(*arguments)


@torch.no_grad()
def relax_in_units(
    problem: Discretised, start: Start, settings: Matched, history: History | None, *, again: bool
) -> RawResult:
    """The matched relaxation; where it fails and the cost is large or small, once more in the cost's own unit.

    Cost: that of the relaxation. For a second one, one evaluation of all stages at 2 (nz + m) + 1 points each before.

    Args:
        problem: what to solve.
        start: fields before tick 0.
        settings: of each relaxation; both together may take twice the ticks.
        history: of the first relaxation.
        again: whether there may be a second one.
    """
    found = relax_matched(problem, start, settings, history)
    lost = (found.terminations != Termination.CONVERGED) & (found.terminations != Termination.NO_START)
    if not again or not bool(lost.any()):
        return found
    change = _change(problem, start.states, start.controls)
    strange = lost & ((change < _SMALLEST) | (change > _LARGEST)) & (change > 0) & change.isfinite()
    some = strange.nonzero().flatten()
    if not len(some):
        return found
    weight = torch.where(strange, 1 / change, 1.0)
    counted = Discretised.of(_weighed(problem.problem, weight)).select(some)
    second = relax_matched(counted, _start(start, some, weight[some]), settings, None)
    second = _undone(second, weight[some])
    solved = (second.terminations == Termination.CONVERGED).nonzero().flatten()
    return _merged(found, some[solved], second, solved)


def _start(start: Start, some: Tensor, weight: Tensor) -> Start:
    """Some of the fields, costates and multipliers in the unit of the cost."""
    known = start.known
    if known is not None:
        known = Known(weight[:, None, None] * known.inequality[some], weight[:, None] * known.equality[some])
    costates = weight[:, None, None] * start.costates[some]
    return Start(start.states[some], costates, start.controls[some], known)


def _undone(found: RawResult, weight: Tensor) -> RawResult:
    """Costates and multipliers in the unit of the given cost; residuals stay relative to the search's own."""
    by_stage, by_problem = weight[:, None, None], weight[:, None]
    return replace(
        found,
        costates=found.costates / by_stage,
        inequality=None if found.inequality is None else found.inequality / by_stage,
        equality=None if found.equality is None else found.equality / by_problem,
    )


def _merged(found: RawResult, places: Tensor, second: RawResult, some: Tensor) -> RawResult:
    """With some of the other ends in these places, after the ticks of both."""

    def put(one: Tensor, other: Tensor) -> Tensor:
        return one.index_copy(0, places, other[some])

    def put_if(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else put(one, other)

    return RawResult(
        put(found.states, second.states),
        put(found.costates, second.costates),
        put(found.controls, second.controls),
        put_if(found.gains, second.gains),
        put_if(found.inequality, second.inequality),
        put_if(found.equality, second.equality),
        put_if(found.slacks, second.slacks),
        mapped(put, found.residuals, second.residuals),
        put(found.terminations, second.terminations),
        found.ticks.index_add(0, places, second.ticks[some]),
    )


def _weighed(given: Problem, weight: Tensor) -> Problem:
    """A problem whose costs are multiplied by a parameter that only they see."""
    batch, known = given.batch, given.parameters
    count = 0 if known is None else known.shape[-1]
    extra = weight.reshape(*batch, 1)
    if known is not None:
        extra = torch.cat((known.detach().expand(*batch, count), extra), -1)
    limits = [PathLimit(Given(limit.function, count, STAGE), limit.first) for limit in limits_of(given.path_constraint)]

    def put(made: type[Given | _Weighed], function: Callable[..., Tensor] | None, place: int) -> Any:
        return None if function is None else made(function, count, place)

    return unchecked(
        given,
        parameters=extra,
        dynamics=Given(given.dynamics, count, STAGE),
        running_cost=_Weighed(given.running_cost, count, STAGE),
        stage_cost=put(_Weighed, given.stage_cost, STAGE),
        initial_cost=put(_Weighed, given.initial_cost, END),
        terminal_cost=put(_Weighed, given.terminal_cost, END),
        path_constraint=joined(limits),
        terminal_constraint=put(Given, given.terminal_constraint, END),
        terminal_inequality=put(Given, given.terminal_inequality, END),
    )


def _change(problem: Discretised, states: Tensor, controls: Tensor) -> Tensor:
    """By how much a cost changes, to second order, where one entry of a path is moved by its own size, (B,).

    The largest over entries of Σ_k |∂L_k| s + ½ |∂²L_k| s², with that of φ, by central differences.
    """
    points = torch.cat((states[:, :-1], controls), -1)
    low, high = problem.bounds
    span = torch.where((high - low).isfinite(), (high - low) / 4, controls.abs().mean(1, keepdim=True).clamp(min=1.0))
    span = span.mean(1) if span.dim() > 2 else span
    sizes = torch.cat((states.abs().mean(1).clamp(min=1.0), span), -1)
    moves = torch.diag_embed(_FRACTION * sizes).movedim(-1, 0)[:, :, None]  # an entry each, (nz + m, B, 1, nz + m)
    moves = torch.cat((torch.zeros_like(moves[:1]), moves, -moves))
    running = problem.stages(points + moves)[..., 0]
    final_ = problem.end(states[:, -1] + moves[:, :, 0, : problem.size])[..., 0]
    return (_differences(running).sum(-1) + _differences(final_)).amax(0)


def _differences(values: Tensor) -> Tensor:
    """|first| + ½ |second difference|, of values at the middle, above and below (1 + 2J, ...): (J, ...)."""
    middle, (above, below) = values[0], values[1:].chunk(2)
    first, second = (above - below) / (2 * _FRACTION), (above + below - 2 * middle) / _FRACTION**2
    return (first.abs() + 0.5 * second.abs()).nan_to_num(0.0, 0.0, 0.0)

"""The matched wave: Newton's method on Pontryagin's conditions, every problem of a batch at its own pace."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.history import History
from worldsheet.control.interior import direction
from worldsheet.control.iterate import Conditions, Iterate, Residuals, conditions, residuals
from worldsheet.control.records import mapped
from worldsheet.control.rest import Ending, Rest
from worldsheet.control.search import MEMORY, search
from worldsheet.control.stage import Discretised
from worldsheet.control.start import Start

BARRIER = 0.1

_PATIENCE = 12  # ticks without progress
_CLOSE = 10.0  # residuals within this many barriers let the barrier fall


@final
@dataclass(frozen=True)
class Matched:
    """Settings of the matched relaxation.

    Attributes:
        tol: largest residual at rest, relative to the size of states and costates where that is above 1.
        max_ticks: budget.
        barrier: μ at the start.
    """

    tol: float
    max_ticks: int
    barrier: float = BARRIER


def relax_matched(problem: Discretised, start: Start, settings: Matched, history: History | None) -> Rest:
    """Tick until every problem is at rest: all stages move at once, by the impedance that reflects nothing.

    A tick expands all stages to second order, finds the matched impedance (24) and rides its wave (23). Linear dynamics
    with quadratic cost are solved in one tick; elsewhere convergence is quadratic near a solution. Cost per tick: one
    evaluation of all stages with derivatives, 2 log N products of n × n scatterers for few problems or N small steps
    for many, and one or two evaluations of the merit.
    """
    at = _started(problem, start, settings.barrier)
    moving = torch.arange(len(problem.start), device=problem.start.device)
    ledger = _Ledger(problem, at)
    for tick in range(settings.max_ticks + 1):
        found = conditions(problem, at)
        now = residuals(problem, at, found, torch.zeros_like(at.barrier))
        if history is not None:
            _tell(history, tick, moving, problem, at, found)
        endings = _endings(problem, at, now, settings, last=tick == settings.max_ticks)
        at = _calmer(problem, at, found, settings)
        step = direction(problem, at, found)
        ledger.put(moving, at, now, step.gains, endings, tick)
        kept = (endings == Ending.RUNNING).nonzero().flatten()
        if not len(kept):
            break
        at = search(problem, at, found, step)
        if len(kept) < len(moving):
            problem, at, moving = problem.select(kept), at.select(kept), moving[kept]
    return ledger.rest()


def _started(problem: Discretised, start: Start, barrier: float) -> Iterate:
    """Slacks and forces that fit a start."""
    count, size = len(start.states), problem.size
    with torch.no_grad():
        inequality = problem.stages(torch.cat((start.states[:, :-1], start.controls), -1))[..., 1 + size :]
        targets = problem.end(start.states[:, -1])[..., 1:]
    slacks = (-inequality).clamp(min=0.1 * min(1.0, barrier**0.5)).nan_to_num(1.0)
    each = start.states.new_zeros(count)
    return Iterate(
        states=start.states,
        costates=start.costates,
        controls=start.controls,
        slacks=slacks,
        forces=barrier / slacks,
        pulls=torch.zeros_like(targets),
        barrier=each + (barrier if slacks.shape[-1] else 0.0),
        shift=each.clone(),
        weight=each.clone(),
        failures=each.clone(),
        past=each.new_full((count, MEMORY, 2), torch.inf),
    )


def _endings(problem: Discretised, at: Iterate, now: Residuals, settings: Matched, *, last: bool) -> Tensor:
    """Which problems have come to an end, and why."""
    worst = now.relative(at.states, at.costates)
    stuck = at.failures >= _PATIENCE
    met = now.constraint <= 1e3 * settings.tol
    ending = torch.where(stuck, torch.where(met, Ending.STUCK.value, Ending.INFEASIBLE.value), Ending.RUNNING.value)
    if last:
        ending = torch.where(met, Ending.SPENT.value, Ending.INFEASIBLE.value)
    ending = torch.where(worst.isfinite(), ending, Ending.OVERFLOWED.value)
    ending = torch.where(worst <= settings.tol, Ending.CONVERGED.value, ending)
    return torch.where(problem.start.isfinite().all(-1), ending, Ending.NO_START.value)


def _calmer(problem: Discretised, at: Iterate, found: Conditions, settings: Matched) -> Iterate:
    """Lower the barrier where the conditions hold to within it."""
    if not at.slacks.shape[-1]:
        return at
    floor, barrier = settings.tol / 10, at.barrier
    for _ in range(4):
        worst = residuals(problem, at, found, barrier).relative(at.states, at.costates)
        lower = torch.minimum(0.2 * barrier, barrier**1.5).clamp(min=floor)
        barrier = torch.where(worst <= _CLOSE * barrier, lower, barrier)
    changed = (barrier < at.barrier)[:, None, None]
    return replace(at, barrier=barrier, past=torch.where(changed, torch.inf, at.past))


def _tell(history: History, tick: int, moving: Tensor, problem: Discretised, at: Iterate, found: Conditions) -> None:
    size = problem.size
    costate = torch.cat((found.slope[:, 1:, :size], found.end_slope[:, None]), 1)
    history.add(tick, moving, at.states, at.costates, at.controls, found.gap, costate)


@final
class _Ledger:
    """The last fields of every problem of the batch."""

    def __init__(self, problem: Discretised, at: Iterate) -> None:
        self._at = mapped(lambda part: part.clone(), at)
        each = at.barrier
        stages, controls = at.controls.shape[1:]
        self._gains = each.new_zeros((len(each), stages, controls, problem.size))
        self._residuals = Residuals(*(torch.full_like(each, torch.inf) for _ in range(5)))
        self._endings = torch.full(each.shape, Ending.RUNNING.value, device=each.device)
        self._ticks = torch.zeros_like(self._endings)

    def put(self, where: Tensor, at: Iterate, now: Residuals, gains: Tensor, endings: Tensor, tick: int) -> None:
        done = (endings != Ending.RUNNING).nonzero().flatten()
        if not len(done):
            return
        places = where[done]
        self._at.put(places, at.select(done))
        self._gains[places] = gains[done]
        mapped(lambda all_, some: all_.index_copy_(0, places, some[done]), self._residuals, now)
        self._endings[places] = endings[done]
        self._ticks[places] = tick

    def rest(self) -> Rest:
        at = self._at
        return Rest(at.states, at.costates, at.controls, self._gains, self._residuals, self._endings, self._ticks)

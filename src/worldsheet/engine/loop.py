"""The one loop over ticks."""

from dataclasses import replace
from itertools import islice
from math import inf, isnan, nan
from typing import final

import torch

from worldsheet.core.errors import InputError, SitesChangedError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.record import Record
from worldsheet.engine.base import Engine, Residual
from worldsheet.engine.motion import ParameterUpdater
from worldsheet.engine.stopping import FrontDetector, GrowthDetector, Stop
from worldsheet.schedules import Firing, Schedule, Tick

_SPENT = Status.BUDGET_SPENT
_TRAINING = (
    "this is the budget for a step of training; ask for more with stop=Stop(max_ticks=...), or for rest with "
    "stop=Stop(tol=...), or join layers into fewer sites: Conv, ReLU and pooling in one nn.Sequential"
)
_EXCURSION = 100.0  # a descent never goes up; with multipliers it may, by about as much as it went down


def run(
    engine: Engine,
    schedule: Schedule,
    stop: Stop,
    record: Record | None = None,
    motion: ParameterUpdater | None = None,
    *,
    measure_final: bool = True,
) -> Outcome:
    """Move a block tick by tick until it has settled, its budget is spent, its credit has arrived or it diverges.

    A dynamics that settles at once is stopped when its schedule is exact, without measuring anything; otherwise the
    residual is measured as `stop` says, and also after the last tick if `measure_final`. Where parameters move too
    nothing ever settles, and the budget ends it. A forward that calls other sites than before ends it too.
    """
    clock = _Clock()
    try:
        return _run(engine, schedule, stop, record, motion, clock, measure_final=measure_final)
    except SitesChangedError as change:
        return Outcome(Status.SITES_CHANGED, clock.ticks, nan, f"{change.problem}; {change.remedy}")


class _Clock:
    """How many ticks have passed."""

    ticks = 0


def _run(
    engine: Engine,
    schedule: Schedule,
    stop: Stop,
    record: Record | None,
    motion: ParameterUpdater | None,
    clock: _Clock,
    *,
    measure_final: bool,
) -> Outcome:
    topology = engine.topology
    exact = schedule.settles_after(topology) if engine.dynamics.settles_at_once and motion is None else None
    tol = None if schedule.once else stop.tol  # a site that moves once has no residual before it has moved
    if tol is None and exact is None and stop.max_ticks is None and not stop.arrival:
        tol = engine.dynamics.tolerance(engine.precision)
    budget = _budget(engine, stop, exact)
    growth = GrowthDetector(budget, inf if motion else engine.dynamics.character.growth)
    judge, watched = _Judge(engine, tol, growth, by_default=stop == Stop()), growth.ticks
    arrival = FrontDetector(engine.precision) if stop.arrival and exact is None else None
    _take(record, engine, 0)
    done, known = 0, None
    for tick in islice(schedule.ticks(engine.topology), budget):
        if tick is not known:
            _refuse_absent(tick, topology.size)
            known = tick
        if motion is not None:
            motion.read()
        engine.move(tick)
        done = clock.ticks = done + 1
        if motion is not None and not motion.move():
            return Outcome(Status.DIVERGED, done, nan, "parameter gradients overflowed; lower the learning rate")
        if record is not None:
            _take(record, engine, done)
        if done in watched:
            judge.watch(tick)
        if exact is not None and done >= exact and (engine.sees_all_reads or judge.settled()):
            return Outcome(Status.CONVERGED, done)
        if tol is not None and done % stop.every == 0 and (outcome := judge.measured(done)).status is not _SPENT:
            return outcome
        if arrival is not None and arrival.passed(*engine.credit_at_ends()):
            return judge.measured(done, Status.ARRIVED)
    if exact is not None or motion is not None:
        return Outcome(_SPENT, done) if exact is None else _short_of(exact, done)
    return judge.spent(done, measure=measure_final or tol is not None)


def _short_of(exact: int, done: int) -> Outcome:
    remedy = f"this schedule is exact after {exact} ticks: raise max_ticks"
    if done >= exact:
        remedy += "; states that are read without derivatives take longer"
    return Outcome(_SPENT, done, None, remedy)


@final
class _Judge:
    """Says how a relaxation stands, with its start in mind."""

    def __init__(self, engine: Engine, tol: float | None, growth: GrowthDetector, *, by_default: bool) -> None:
        self._engine = engine
        self._by_default = by_default
        self._tol = tol
        self._growth = growth
        self._first = 0.0
        self._start = engine.loss if engine.dynamics.character.descends else None

    def settled(self) -> bool:
        """Whether nothing moves any more, but for rounding."""
        tolerance = self._engine.dynamics.tolerance(self._engine.precision)
        return tolerance is not None and self._engine.residual().relative <= tolerance

    def watch(self, tick: Tick) -> None:
        """After a watched tick: how large the residuals are."""
        self._growth.take(self._engine.slope(tick))

    def spent(self, ticks: int, *, measure: bool) -> Outcome:
        """How it stands after the last tick."""
        outcome = self.measured(ticks) if measure else self.check_divergence(ticks)
        told = self._growth.told() if outcome.status is _SPENT else ""
        if not told:
            return outcome
        remedy = f"{told}, as no stable relaxation does; {self._engine.dynamics.character.cure}"
        return replace(outcome, remedy=remedy, growing=True)

    def measured(self, ticks: int, otherwise: Status = _SPENT) -> Outcome:
        """Converged or diverged, or else what the caller says."""
        norms = self._engine.residual()
        residual = norms.relative
        cure = self._engine.dynamics.character.cure
        if isnan(residual):
            remedy = f"the fields overflowed; {cure}, or scale inputs, weights or loss down"
            return Outcome(Status.DIVERGED, ticks, residual, remedy)
        if self._grows(norms):
            return Outcome(
                Status.DIVERGED, ticks, residual, f"the fields grow without bound, the step is unstable; {cure}"
            )
        if self._runs_away():
            return Outcome(Status.DIVERGED, ticks, residual, f"the cost has run away, the step is unstable; {cure}")
        if residual <= (self._tol or 0.0):
            return Outcome(Status.CONVERGED, ticks, residual)
        return Outcome(otherwise, ticks, residual, self._advice(cure) if otherwise is _SPENT else "")

    def _advice(self, cure: str) -> str:
        dynamics, depth = self._engine.dynamics, self._engine.topology.depth
        if self._by_default and dynamics.default_budget(depth) < dynamics.budget(depth):
            return _TRAINING
        return f"raise max_ticks, or {cure}"

    def check_divergence(self, ticks: int) -> Outcome:
        """Diverged or not, without a measurement, which costs a tick."""
        overflowed, cure = self._engine.overflowed, self._engine.dynamics.character.cure
        if not overflowed and not self._runs_away():
            return Outcome(_SPENT, ticks)
        what = "fields overflowed" if overflowed else "cost has run away, the step is unstable"
        return Outcome(Status.DIVERGED, ticks, nan, f"the {what}; {cure}")

    def _grows(self, norms: Residual) -> bool:
        """Whether some residual is a trillion times the largest of the first measurement that was not zero."""
        largest = float(torch.maximum(norms.states.max(), norms.costates.max()))
        self._first = self._first or largest
        return largest > 1e12 * self._first

    def _runs_away(self) -> bool:
        if self._start is None:
            return False
        return not bool(self._engine.loss - self._start <= _EXCURSION * (1 + self._start.abs()))


def _budget(engine: Engine, stop: Stop, exact: int | None) -> int:
    if stop.max_ticks is not None:
        return stop.max_ticks
    if exact is None:
        dynamics, depth = engine.dynamics, engine.topology.depth
        return dynamics.budget(depth) if stop.tol is not None or stop.arrival else dynamics.default_budget(depth)
    return exact if engine.sees_all_reads else exact * engine.topology.size


def _refuse_absent(tick: Tick, size: int) -> None:
    """Refuse a tick of a user's schedule that is none, or that moves a site which is not there."""
    for phase in tick:
        for firing in phase:
            if not isinstance(firing, Firing):
                raise InputError(
                    "a tick of the schedule must be a tuple of phases of firings, got something else",
                    "ticks as tuples of phases, and phases as tuples of Firing",
                    "yield ((Firing(site, field), …), …): each phase reads one moment",
                )
            if not 1 <= firing.site <= size:
                raise InputError(
                    f"the schedule moves site {firing.site}, which is not there",
                    f"sites 1 to {size}; the input is site 0 and does not move",
                    "take the sites from the topology that ticks() is given: for site in topology.sites",
                )


def _take(record: Record | None, engine: Engine, tick: int) -> None:
    if record is not None and tick % record.every == 0:
        residual = engine.residual()
        record.add(tick, residual.states, residual.costates)
        if record.fields:
            record.keep(engine.fields.states, engine.fields.costates)

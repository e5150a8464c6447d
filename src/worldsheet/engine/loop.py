"""The one loop over ticks."""

from itertools import islice
from math import isnan, nan

from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.record import Record
from worldsheet.engine.base import Engine, Residual
from worldsheet.engine.stopping import Stop
from worldsheet.schedule import Schedule


def run(engine: Engine, schedule: Schedule, stop: Stop, record: Record | None = None) -> Outcome:
    """Move a block tick by tick until it has settled, its budget is spent or it diverges.

    A dynamics that settles at once is stopped when its schedule is exact, without measuring anything; otherwise the
    residual is measured as `stop` says, and once at the end.
    """
    topology = engine.chain.topology
    exact = schedule.settles_after(topology) if engine.dynamics.settles_at_once else None
    budget = _budget(engine, stop, exact)
    tol = None if schedule.once else stop.tol  # a site that moves once has no residual before it has moved
    if tol is None and exact is None and stop.max_ticks is None:
        tol = engine.dynamics.tolerance(engine.precision)
    _take(record, engine, 0)
    done, growth = 0, _Growth()
    for tick in islice(schedule.ticks(engine.topology), budget):
        for phase in tick:
            engine.fire(phase)
        engine.close_tick()
        done += 1
        if record is not None:
            _take(record, engine, done)
        if done == exact:
            return Outcome(Status.CONVERGED, done)
        if tol is not None and done % stop.every == 0:
            measured = engine.residual()
            if measured.relative <= tol or isnan(measured.relative) or growth.runs_away(measured):
                return _measured(done, nan if growth.without_bound else measured.relative, tol)
    if exact is not None:
        remedy = f"this schedule is exact after {exact} ticks: raise max_ticks"
        return Outcome(Status.BUDGET_SPENT, done, None, remedy)
    return _measured(done, engine.residual().relative, tol)


class _Growth:
    """Whether residuals grow without bound, long before they overflow."""

    def __init__(self) -> None:
        self._first = 0.0
        self.without_bound = False

    def runs_away(self, residual: Residual) -> bool:
        """Whether some residual is a trillion times the largest of the first measurement that was not zero."""
        largest = float(max(residual.states.max(), residual.costates.max()))
        self._first = self._first or largest
        self.without_bound = largest > 1e12 * self._first
        return self.without_bound


def _budget(engine: Engine, stop: Stop, exact: int | None) -> int:
    if stop.max_ticks is not None:
        return stop.max_ticks
    return exact if exact is not None else engine.dynamics.budget(engine.chain.topology.depth)


def _measured(ticks: int, residual: float, tol: float | None) -> Outcome:
    if isnan(residual):
        remedy = (
            "the fields grow without bound: the step is beyond the stability limit of these layers, for waves the "
            "Courant limit; use a rate closer to 1 or a lower speed, or scale inputs, weights or loss down"
        )
        return Outcome(Status.DIVERGED, ticks, residual, remedy)
    if tol is not None and residual <= tol:
        return Outcome(Status.CONVERGED, ticks, residual)
    return Outcome(Status.BUDGET_SPENT, ticks, residual, "raise max_ticks, or use a rate closer to 1")


def _take(record: Record | None, engine: Engine, tick: int) -> None:
    if record is not None and tick % record.every == 0:
        residual = engine.residual()
        record.add(tick, residual.states, residual.costates)
        if record.fields:
            record.keep(engine.fields.states, engine.fields.costates)

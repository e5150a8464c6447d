"""The one loop over ticks."""

from itertools import islice
from math import isnan, nan

from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.record import Record
from worldsheet.engine.base import Engine
from worldsheet.engine.motion import Motion
from worldsheet.engine.stopping import Stop
from worldsheet.schedule import Schedule


def run(
    engine: Engine, schedule: Schedule, stop: Stop, record: Record | None = None, motion: Motion | None = None
) -> Outcome:
    """Move a block tick by tick until it has settled, its budget is spent or it diverges.

    A dynamics that settles at once is stopped when its schedule is exact, without measuring anything; otherwise the
    residual is measured as `stop` says, and once at the end. Where parameters move too nothing ever settles, and the
    budget ends it.
    """
    topology = engine.chain.topology
    exact = schedule.settles_after(topology) if engine.dynamics.settles_at_once and motion is None else None
    budget = _budget(engine, stop, exact)
    tol = None if schedule.once else stop.tol  # a site that moves once has no residual before it has moved
    if tol is None and exact is None and stop.max_ticks is None:
        tol = engine.dynamics.tolerance(engine.precision)
    _take(record, engine, 0)
    done = 0
    for tick in islice(schedule.ticks(engine.topology), budget):
        if motion is not None:
            motion.read()
        for phase in tick:
            engine.fire(phase)
        engine.close_tick()
        done += 1
        if motion is not None and not motion.move():
            return _measured(done, nan, tol)
        if record is not None:
            _take(record, engine, done)
        if done == exact:
            return Outcome(Status.CONVERGED, done)
        if tol is not None and done % stop.every == 0:
            residual = engine.residual().relative
            if residual <= tol or isnan(residual):
                return _measured(done, residual, tol)
    if exact is not None:
        remedy = f"this schedule is exact after {exact} ticks: raise max_ticks"
        return Outcome(Status.BUDGET_SPENT, done, None, remedy)
    if motion is not None:
        return Outcome(Status.BUDGET_SPENT, done)
    return _measured(done, engine.residual().relative, tol)


def _budget(engine: Engine, stop: Stop, exact: int | None) -> int:
    if stop.max_ticks is not None:
        return stop.max_ticks
    return exact if exact is not None else engine.dynamics.budget(engine.chain.topology.depth)


def _measured(ticks: int, residual: float, tol: float | None) -> Outcome:
    if isnan(residual):
        remedy = "the fields overflowed; use a rate closer to 1, or scale inputs, weights or loss down"
        return Outcome(Status.DIVERGED, ticks, residual, remedy)
    if tol is not None and residual <= tol:
        return Outcome(Status.CONVERGED, ticks, residual)
    return Outcome(Status.BUDGET_SPENT, ticks, residual, "raise max_ticks, or use a rate closer to 1")


def _take(record: Record | None, engine: Engine, tick: int) -> None:
    if record is not None and tick % record.every == 0:
        residual = engine.residual()
        record.add(tick, residual.states, residual.costates)

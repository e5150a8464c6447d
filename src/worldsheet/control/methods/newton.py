"""The matched wave: Newton's method on Pontryagin's conditions, every problem of a batch at its own pace."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.compiled.execution import mapped
from worldsheet.control.derivatives import Expansion
from worldsheet.control.discretized import Discretised
from worldsheet.control.lqr.subproblem import Quadratic, Step
from worldsheet.control.methods.active_set import activated, interior, reactivated
from worldsheet.control.methods.batch import RESTARTS, RESTORATION, ActiveBatch
from worldsheet.control.methods.history import History
from worldsheet.control.methods.initial_guess import Start
from worldsheet.control.methods.iterate import (
    Conditions,
    Iterate,
    Residuals,
    Units,
    arriving,
    complementarity,
    conditions,
    grown,
    residuals,
)
from worldsheet.control.methods.kkt import condensed, direction
from worldsheet.control.methods.line_search import search
from worldsheet.control.methods.restoration import eased, restored
from worldsheet.control.methods.result import RawResult, Termination
from worldsheet.control.methods.stagewise import expanded

BARRIER = 0.1

_PATIENCE, _LESS_PATIENCE = 12, 8  # ticks without progress, in a search and in restoration
_CHANGES = 10  # of an active set within a tick
_SHORT_STEPS, _FAR = 8, 1e-3  # tiny steps in a row that are too many, where residuals are larger than that
_CLOSE = 10.0  # residuals within this many barriers let the barrier fall


@final
@dataclass(frozen=True)
class Matched:
    """Settings of the matched relaxation.

    Attributes:
        tol: stop when all residuals are below this, relative to the size of states and costates where that is above 1.
        max_ticks: budget.
        barrier: μ at the start.
    """

    tol: float
    max_ticks: int
    barrier: float = BARRIER


@final
@dataclass(frozen=True)
class _Seen:
    """What a look at all stages says.

    Attributes:
        at: the iterate, its barrier lowered where that is due.
        found: the optimality conditions.
        now: their residuals.
        terminations: which problems have come to an end, and why.
        local: Newton's equations.
        product: what s · force is at most at rest, (B,).
    """

    at: Iterate
    found: Conditions
    now: Residuals
    terminations: Tensor
    local: Quadratic
    product: Tensor


def relax_matched(problem: Discretised, start: Start, settings: Matched, history: History | None) -> RawResult:
    """Tick until every problem is at rest: all stages move at once, by the impedance that reflects nothing.

    A tick expands all stages to second order, finds the matched impedance (24) and rides its wave (23). Linear dynamics
    with quadratic cost are solved in one tick; elsewhere convergence is quadratic near a solution. Cost per tick: one
    evaluation of all stages with derivatives, 2 log N products of n × n scatterers for few problems or N small steps
    for many, and one or two evaluations of the merit. Where an active set is kept, each change of it within a tick
    costs one more impedance. Of a large batch as many as fit a processor's cache move at once;
    a problem that ends makes room for the next. One that gets lost, or crawls towards an end that is far away,
    starts anew: feasibility first, then waiting where it is, then swaying.
    """
    places = ActiveBatch(problem, start, settings.barrier)
    results = _ResultBuffer(problem, start)
    while places.busy:
        if history is None and not (places.at.warm and bool(places.at.kept.all())):
            _go_ahead(places, settings)
        part, at, ticks = places.problem, places.at, places.ticks
        spent = ticks >= settings.max_ticks
        stage = expanded(part, at.points(), at.weights())
        seen = problem.execution.run(_look, part, at, stage, spent, settings.tol)
        if history is not None:
            _tell(history, ticks, places.moving, seen)
        taken = places.taken
        running = taken & (seen.terminations == Termination.RUNNING)
        seen, moved = _directed(part, seen, running | taken & (seen.terminations == Termination.CONVERGED))
        lost = _lost(seen.terminations)
        if bool(running.any()):
            lost = lost | running & (places.attempt == RESTORATION) & _crawling(seen.at, seen.now)
        again = taken & ~spent & (places.attempt < RESTARTS) & lost
        ended = taken & ~running & ~again
        running = running & ~again
        results.put(places.moving, ended, seen, moved[0].gains, ticks)
        places.go_on(_moved_on(part, seen, moved, running, settings.barrier), ended, again)
    return results.rest()


@final
@dataclass(frozen=True)
class _Progress:
    """Where problems stand.

    Attributes:
        at: the iterate.
        left: how many ticks they may still do, (B,).
        attempt: how often they have started anew, (B,).
    """

    at: Iterate
    left: Tensor
    attempt: Tensor

    def select(self, index: Tensor) -> "_Progress":
        """Some of the problems."""
        return _Progress(self.at.select(index), self.left[index], self.attempt[index])


def _go_ahead(places: ActiveBatch, settings: Matched) -> None:
    """Ordinary ticks of each problem by itself, as far as the execution has code that does them."""
    left = torch.where(places.taken, settings.max_ticks - places.ticks, 0)
    before = _Progress(places.at, left, places.attempt)
    after = places.problem.execution.ahead(_ordinary, before, places.problem, settings.tol)
    places.at, places.ticks = after.at, places.ticks + left - after.left


def _ordinary(now: _Progress, problem: Discretised, tol: float) -> tuple[_Progress, Tensor]:
    """A tick of a problem that searches, and whether it was one.

    That of one that ends, starts anew, is restored or keeps an active set is not.
    """
    at = now.at
    stage = expanded(problem, at.points(), at.weights())
    seen = _look(problem, at, stage, now.left <= 0, tol)
    running = (seen.terminations == Termination.RUNNING) & ~seen.at.restoring
    running = running & ~((now.attempt == RESTORATION) & _crawling(seen.at, seen.now))
    running = running & ~at.kept[:, 0, 0] if at.warm else running
    moved = direction(problem, seen.at, seen.local, running)
    return _Progress(search(problem, seen.at, seen.found, moved, running), now.left - 1, now.attempt), running


def _directed(problem: Discretised, seen: _Seen, wanted: Tensor) -> tuple[_Seen, tuple[Step, Tensor, Tensor]]:
    """Where a step goes; where an active set is kept, with the set that the step itself leads to."""
    moved = direction(problem, seen.at, seen.local, wanted)
    if not seen.at.warm:
        return seen, moved
    run = problem.execution.run
    for _ in range(_CHANGES):
        active = run(reactivated, seen.at, seen.found, moved[0])
        active = torch.where(moved[2][:, None, None], active, seen.at.active)
        if not bool((active != seen.at.active).flatten(1).any(-1)[wanted].any()):
            break
        at = replace(seen.at, active=active)
        seen = replace(seen, at=at, local=run(condensed, problem, at, seen.found))
        moved = direction(problem, at, seen.local, wanted)
    return seen, moved


def _moved_on(
    problem: Discretised, seen: _Seen, moved: tuple[Step, Tensor, Tensor], running: Tensor, barrier: float
) -> Iterate:
    """The next iterate, of those that search and of those that are restored."""
    if not bool(running.any()):
        return seen.at
    searching, restoring = running & ~seen.at.restoring, (running & seen.at.restoring).nonzero().flatten()
    after = search(problem, seen.at, seen.found, moved, searching) if bool(searching.any()) else seen.at
    if not len(restoring):
        return after
    part, found, at = problem.select(restoring), seen.found.select(restoring), seen.at.select(restoring)
    step, shift, fine = moved
    own = (step.select(restoring), shift[restoring], fine[restoring])
    after = mapped(Tensor.clone, after)
    after.put(restoring, restored(part, at, found, own, barrier))
    return after


def _crawling(at: Iterate, now: Residuals) -> Tensor:
    """Which problems have made nothing but tiny steps for a while, far from what constraints ask, (B,)."""
    return ~at.restoring & (at.short >= _SHORT_STEPS) & (torch.maximum(now.constraint, now.dynamics) > _FAR)


def _lost(terminations: Tensor) -> Tensor:
    return (
        (terminations == Termination.STUCK)
        | (terminations == Termination.INFEASIBLE)
        | (terminations == Termination.OVERFLOWED)
    )


def _look(problem: Discretised, at: Iterate, stage: Expansion, spent: Tensor, tol: float) -> _Seen:
    at = activated(at, stage)
    found = conditions(problem, at, stage)
    at = eased(grown(at, found), found)
    units = Units.of(at, found, tol)
    now = residuals(problem, at, found, units)
    calm = _calmer(at, now, units, tol)
    now = arriving(now, at, found, units, tol)
    terminations = _endings(problem, at, now, tol, spent)
    now = replace(now, costate=torch.where(at.restoring, torch.inf, now.costate))  # not known while no cost counts
    return _Seen(calm, found, now, terminations, condensed(problem, calm, found), tol / 10 * units.cost)


def _endings(problem: Discretised, at: Iterate, now: Residuals, tol: float, spent: Tensor) -> Tensor:
    """Which problems have come to an end, and why."""
    worst = now.worst()
    stuck = at.failures >= torch.where(at.restoring, _LESS_PATIENCE, _PATIENCE)
    met = now.constraint <= 1e3 * tol
    ending = torch.where(
        stuck, torch.where(met, Termination.STUCK.value, Termination.INFEASIBLE.value), Termination.RUNNING.value
    )
    ending = torch.where(spent, torch.where(met, Termination.SPENT.value, Termination.INFEASIBLE.value), ending)
    ending = torch.where(worst.isfinite(), ending, Termination.OVERFLOWED.value)
    ending = torch.where((worst <= tol) & ~at.restoring, Termination.CONVERGED.value, ending)
    return torch.where(problem.start.isfinite().all(-1), ending, Termination.NO_START.value)


def _calmer(at: Iterate, now: Residuals, units: Units, tol: float) -> Iterate:
    """Lower the barrier where the conditions hold to within it."""
    if not at.slacks.shape[-1]:
        return at
    floor, barrier = tol / 10 * units.cost, at.barrier
    for _ in range(4):
        worst = replace(now, complementarity=complementarity(at, barrier, units)).worst()
        lower = torch.minimum(0.2 * barrier, barrier**1.5)
        lower = torch.minimum(torch.maximum(lower, floor), barrier)
        barrier = torch.where((worst <= _CLOSE * barrier / units.cost) & ~at.restoring, lower, barrier)
    changed = (barrier < at.barrier)[:, None, None]
    return replace(at, barrier=barrier, filter=torch.where(changed, torch.inf, at.filter))


def _tell(history: History, ticks: Tensor, moving: Tensor, seen: _Seen) -> None:
    place = (moving == history.element).nonzero().flatten()
    if not len(place):
        return
    found, at, size = seen.found, seen.at, seen.at.states.shape[-1]
    costate = torch.cat((found.slope[:, 1:, :size], found.end_slope[:, None]), 1)
    history.add(int(ticks[place[0]]), moving, at.states, at.costates, at.controls, found.gap, costate)


@final
class _ResultBuffer:
    """The last fields of every problem of the batch."""

    def __init__(self, problem: Discretised, start: Start) -> None:
        self._fields = Start(start.states.clone(), start.costates.clone(), start.controls.clone())
        each = start.states.new_zeros(len(start.states))
        stages, controls = start.controls.shape[1:]
        self._gains = each.new_zeros((len(each), stages, controls, problem.size))
        self._inequality = self._equality = self._slacks = each.new_zeros((len(each), 0))
        self._residuals = Residuals(*(torch.full_like(each, torch.inf) for _ in range(5)))
        self._endings = torch.full(each.shape, Termination.RUNNING.value, device=each.device)
        self._ticks = torch.zeros_like(self._endings)

    def put(self, moving: Tensor, ended: Tensor, seen: _Seen, gains: Tensor, ticks: Tensor) -> None:
        """Write down those that have ended; gains stage first."""
        done = ended.nonzero().flatten()
        if not len(done):
            return
        places, at = moving[done], interior(seen.at, seen.product)
        if self._inequality.shape[1:] != at.forces.shape[1:] or self._equality.shape[1:] != at.pulls.shape[1:]:
            self._inequality = at.forces.new_zeros((len(self._ticks), *at.forces.shape[1:]))
            self._slacks = torch.ones_like(self._inequality)
            self._equality = at.pulls.new_zeros((len(self._ticks), *at.pulls.shape[1:]))
        self._inequality[places], self._equality[places] = at.forces[done], at.pulls[done]
        self._slacks[places] = at.slacks[done]
        self._fields.states[places] = at.states[done]
        self._fields.costates[places] = at.costates[done]
        self._fields.controls[places] = at.controls[done]
        self._gains[places] = gains[:, done].transpose(0, 1)
        mapped(lambda all_, some: all_.index_copy_(0, places, some[done]), self._residuals, seen.now)
        self._endings[places] = seen.terminations[done]
        self._ticks[places] = ticks[done]

    def rest(self) -> RawResult:
        at, multipliers = self._fields, (self._inequality, self._equality, self._slacks)
        fields = (at.states, at.costates, at.controls, self._gains, *multipliers)
        return RawResult(*fields, self._residuals, self._endings, self._ticks)

"""The problems of a batch that move at present, and those that wait for a place."""

from dataclasses import replace
from math import pi
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.active_set import kept
from worldsheet.control.methods.initial_guess import Start, middle, rollout, tame
from worldsheet.control.methods.iterate import ORDINARY, Iterate
from worldsheet.control.methods.line_search import MEMORY
from worldsheet.control.methods.restoration import begun
from worldsheet.control.methods.stagewise import evaluated

RESTARTS = 3  # how often a problem that gets lost starts anew
RESTORATION = 0  # the attempt after which violations are made smaller first; skipped where nothing is asked of the end

_LEAST = 1e-9  # a constraint with smaller values than that is given slack as if they were as large
_FAILURES, _KEPT = 2, 10  # failures and ticks after which an active set is given up

_NUMBERS = 2**20  # in the Hessians of the problems that move at once, so that they stay near the processor


@final
class ActiveBatch:
    """Places for some problems of a batch; who ends goes, the next comes in.

    Attributes:
        problem: those that have a place.
        at: where they are.
        ticks: how many each has done, (W,).
        moving: which problem of the batch is in each place, (W,); −1 where a place is kept but empty.
        attempt: how often each has started anew, (W,); one more where nothing is asked of the end.
    """

    def __init__(self, problem: Discretised, start: Start, barrier: float) -> None:
        self._all, self._barrier = problem, barrier
        self._waiting = self._cold = _started(problem, start, barrier, held_back=False)
        if start.known is not None:
            self._waiting = kept(problem, self._waiting, start.known)
        stages, controls = start.controls.shape[1:]
        room = _NUMBERS // (stages * (problem.size + controls) ** 2)
        self._next = min(max(1, problem.execution.places(room, stages)), len(problem.start))
        self.moving = torch.arange(self._next, device=problem.start.device)
        self.ticks = torch.zeros_like(self.moving)
        self._begins = RESTORATION if self._cold.pulls.shape[-1] else RESTORATION + 1
        self.attempt = torch.full_like(self.moving, self._begins)
        self.problem, self.at = self._entered(self.moving)

    @property
    def busy(self) -> bool:
        """Whether any problem is left."""
        return bool(self.taken.any())

    @property
    def taken(self) -> Tensor:
        """Which places have a problem, (W,)."""
        return self.moving >= 0

    def go_on(self, at: Iterate, ended: Tensor, again: Tensor) -> None:
        """Everybody moves to `at`; those that have ended (W,) leave, those that are to try again start at rest."""
        self.at, self.ticks = at, self.ticks + 1
        if bool(again.any()):
            self._restart(again.nonzero().flatten())
        self._let_go()
        places = ended.nonzero().flatten()
        if not len(places):
            return
        entering = min(len(places), len(self._all.start) - self._next)
        if entering:
            self._enter(places[:entering])
        self.moving[places[entering:]] = -1
        left = self.problem.execution.left(self.taken)
        if len(left) < len(self.moving):
            self.problem, self.at = self.problem.select(left), self.at.select(left)
            self.moving, self.ticks, self.attempt = self.moving[left], self.ticks[left], self.attempt[left]

    def _let_go(self) -> None:
        """An active set that leads nowhere gives way to a barrier, from the same start."""
        if not self.at.warm:
            return
        lost = self.at.kept[:, 0, 0] & ((self.at.failures >= _FAILURES) | (self.ticks >= _KEPT)) & self.taken
        places = lost.nonzero().flatten()
        if len(places):
            cold = self._cold.select(self.moving[places])
            self.at.put(places, replace(cold, exchange=torch.zeros_like(self.at.exchange[places])))

    def _enter(self, places: Tensor) -> None:
        coming = torch.arange(self._next, self._next + len(places), device=places.device)
        problem, at = self._entered(coming)
        self._next += len(places)
        self.at.put(places, at)
        self.problem = self.problem.put(places, problem)
        self.moving[places], self.ticks[places], self.attempt[places] = coming, 0, self._begins

    def _restart(self, places: Tensor) -> None:
        """Start anew: feasibility first, then from elsewhere."""
        restored = self.attempt[places] == RESTORATION
        self._restore(places[restored])
        self._start_elsewhere(places[~restored])
        self.attempt[places] += 1

    def _restore(self, places: Tensor) -> None:
        """From the start, without a cost until violations are small."""
        if len(places):
            again = begun(self._cold.select(self.moving[places]))
            self.at.put(places, replace(again, exchange=torch.zeros_like(self.at.exchange[places])))

    def _start_elsewhere(self, places: Tensor) -> None:
        """First waiting, then swaying; now steps are held back in all states, too."""
        if not len(places):
            return
        problem, first = self.problem.select(places), self.attempt[places] == RESTORATION + 1
        waiting, swaying = _waiting(problem), _swaying(problem)
        chosen = first[:, None, None]
        start = Start(
            torch.where(chosen, waiting.states, swaying.states),
            torch.where(chosen, waiting.costates, swaying.costates),
            torch.where(chosen, waiting.controls, swaying.controls),
        )
        again = _started(problem, start, self._barrier, held_back=True)
        self.at.put(places, replace(again, exchange=torch.zeros_like(self.at.exchange[places])))

    def _entered(self, which: Tensor) -> tuple[Discretised, Iterate]:
        return self._all.select(which), self._waiting.select(which)


def _started(problem: Discretised, start: Start, barrier: float, *, held_back: bool) -> Iterate:
    """Slacks and forces that fit a start.

    Regularisation is added to what is chosen, controls and a free duration: how much it holds a step back does not
    depend on the units of states then. If `held_back`, it is added to states as well.
    """
    count, size = len(start.states), problem.size
    with torch.no_grad():
        inequality = evaluated(problem, torch.cat((start.states[:, :-1], start.controls), -1))[..., 1 + size :]
        targets = problem.end(start.states[:, -1])[..., 1:]
    slacks = torch.maximum(-inequality, 0.1 * min(1.0, barrier**0.5) * _units(inequality)).nan_to_num(1.0)
    each = start.states.new_zeros(count)
    regularizer = each.new_ones((count, size + start.controls.shape[-1]))
    regularizer[:, : size - problem.timed] = float(held_back)
    return Iterate(
        states=start.states,
        costates=start.costates,
        controls=start.controls,
        slacks=slacks,
        forces=barrier / slacks,
        pulls=torch.zeros_like(targets),
        barrier=each + (barrier if slacks.shape[-1] else 0.0),
        sizes=start.states.abs().mean(1).clamp(min=1.0),
        end_sizes=torch.ones_like(targets),
        shift=each.clone(),
        regularizer=regularizer,
        failures=each.clone(),
        filter=each.new_full((count, MEMORY, 2), torch.inf),
        limit=each.new_full((count,), torch.inf),
        exchange=slacks[:, :0],
        active=torch.zeros_like(slacks, dtype=torch.bool),
        short=each.clone(),
        goal=each.clone(),
    )


def _units(inequality: Tensor) -> Tensor:
    """What each constraint is measured in, by its largest value over the horizon, (B, 1, p): 1 unless that is large."""
    sizes = inequality.abs().amax(1, keepdim=True).nan_to_num(1.0, 1.0, 1.0).clamp(min=_LEAST)
    return torch.where(sizes > ORDINARY, sizes, sizes.clamp(max=1.0))


def _waiting(problem: Discretised) -> Start:
    """All states where the first is, controls in the middle of what is allowed."""
    stages = problem.steps
    states = problem.start[:, None].repeat(1, stages + 1, 1)
    controls = middle(*problem.bounds).expand(len(states), stages, -1)
    return Start(states, torch.zeros_like(states), controls.clone())


def _swaying(problem: Discretised) -> Start:
    """Where controls lead that sway about the middle of what is allowed, each with its own number of periods.

    That leaves points of symmetry behind, such as a car at rest, where steering makes no difference to first order.
    """
    low, high = problem.bounds
    stages, centre = problem.steps, middle(low, high)
    reach = torch.where((high - low).isfinite(), (high - low) / 4, 0.25)
    turns = torch.linspace(0, 2 * pi, stages, dtype=low.dtype, device=low.device)[:, None]
    number = torch.arange(1, low.shape[-1] + 1, dtype=low.dtype, device=low.device)
    swayed = (centre + reach * (number * turns + 0.5).cos()).clamp(low, high)
    swayed = swayed.expand(len(problem.start), stages, -1)
    states = tame(rollout(problem, problem.start, swayed), problem.start)
    return Start(states, torch.zeros_like(states), swayed.clone())

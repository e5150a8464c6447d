"""Solving an optimal control problem by counter-propagating waves."""

from math import isfinite
from typing import final

import torch
from torch import Tensor

from worldsheet.control.checks import refuse_transforms
from worldsheet.control.diagnosis import diagnosed
from worldsheet.control.discretized import Discretised
from worldsheet.control.elastic import Elastic
from worldsheet.control.methods.cost_scale import relax_in_units
from worldsheet.control.methods.first_order import Scattered, relax_scattered
from worldsheet.control.methods.forward_backward import ForwardBackwardSweep, Sweeping, relax_by_sweeps
from worldsheet.control.methods.history import History
from worldsheet.control.methods.initial_guess import Guess, Start, start_of
from worldsheet.control.methods.newton import BARRIER, Matched
from worldsheet.control.methods.result import RawResult
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import Problem
from worldsheet.control.solution import Trajectory, solution_of
from worldsheet.core.errors import InputError
from worldsheet.dynamics import Riccati, Wave

_MATCHED = Wave(impedance=Riccati())
_MATCHED_TICKS, _WAVE_TICKS, _SWEEPS = 300, 20_000, 500
_WARM_BARRIER = 1e-3


def solve(
    problem: Problem,
    method: Wave | ForwardBackwardSweep = _MATCHED,
    initial_guess: Guess | Trajectory | Tensor | None = None,
    tol: float = 1e-8,
    max_ticks: int | None = None,
    history: History | None = None,
) -> Trajectory:
    """Relax states and costates to Pontryagin's conditions and return the trajectories.

    | method | a tick | ends |
    |---|---|---|
    | `Wave(impedance=Riccati())` | second order, matched impedance | LQR in one tick, elsewhere quadratically |
    | `Wave(impedance=z)` | first order, matrix-free, nearest neighbours only | after O(N) ticks or more |
    | `ForwardBackwardSweep(ω)` | sequential, direct coupling | on short horizons only |

    The scalar wave and the sweep take bounds; path and terminal constraints and what else is free (the duration, the
    initial state, unknowns) need the matched wave.
    Over a horizon the running cost absorbs, and direct coupling, the sweep's, is what diverges. So only `speed` and
    `impedance` of a wave play a part: all of its speed crosses, and a speed that is too high is an outcome.
    A problem that fails does not touch the others of its batch: look at `converged` and `outcomes`.

    With the matched wave states, controls, times and cost of a solution carry gradients with respect to whatever the
    problem reads: initial states, `Problem.parameters`, and tensors or module weights that its functions close over,
    through active bounds and constraints and a free duration, by one more linear solve in the backward pass (implicit
    differentiation). Where a constraint is just about to become active there is no derivative; what is found then is
    that of the problem with a barrier of about `tol`. Second derivatives are refused; `torch.no_grad()` leaves it out.

    Args:
        problem: what to solve, for every initial state of its batch.
        method: how.
        initial_guess: controls, a `Guess`, or an earlier solution of the same sizes.
        tol: stop when all residuals are below this, each compared with the size of what it is made of (`Residuals`).
        max_ticks: budget; by default 300 for the matched wave, 20 000 for the scalar wave, 500 sweeps. If it is left
            out, the matched wave has as many again for a problem that fails with costs in a strange unit.
        history: filled with one problem's fields at every tick; not of that second search.

    Raises:
        InputError: a transform of torch.func, a method that cannot take the problem, a guess of the wrong shape, a
            tolerance that is no number, or tensors that functions of a compiled problem close over and that have
            changed.
    """
    return Solver(problem, method, tol, max_ticks).solve(initial_guess, history)


@final
class Solver:
    """One problem, solved again and again: from other states and times, with other parameters, from other starts.

    Settings are checked once, and code that was made for the problem (`Compiled`) serves all solves.

    Args:
        problem: what to solve.
        method: of `ws.control.solve`.
        tol: of `ws.control.solve`.
        max_ticks: of `ws.control.solve`.

    Raises:
        InputError: as `ws.control.solve`.
    """

    def __init__(
        self,
        problem: Problem,
        method: Wave | ForwardBackwardSweep = _MATCHED,
        tol: float = 1e-8,
        max_ticks: int | None = None,
    ) -> None:
        if not (isfinite(tol) and tol > 0):
            raise InputError(
                f"tol must be a positive number, got {tol}",
                "a number above 0: the solver stops when all residuals are below it",
                "try 1e-8 in float64, 1e-4 in float32",
            )
        if max_ticks is not None and max_ticks < 0:
            raise InputError(
                f"max_ticks must not be negative, got {max_ticks}",
                "0 or more",
                "leave it out for the method's own budget",
            )
        self.problem = problem
        self._method = method
        self._tol = tol
        self._max_ticks = max_ticks

    def solve(
        self,
        initial_guess: Guess | Trajectory | Tensor | None = None,
        history: History | None = None,
        *,
        initial_state: Tensor | None = None,
        initial_time: float | None = None,
        parameters: Tensor | None = None,
        stage_data: Tensor | None = None,
    ) -> Trajectory:
        """Solve the problem, with what is given here in the place of its own.

        Args:
            initial_guess: of `ws.control.solve`.
            history: of `ws.control.solve`.
            initial_state: another one, (..., n).
            initial_time: another one.
            parameters: others, (..., q).
            stage_data: others, (..., N + 1, d).

        Raises:
            InputError: as `ws.control.solve` and `Problem.at`.
        """
        refuse_transforms()
        state = self.problem.initial_state if initial_state is None else initial_state
        problem = self.problem.at(state, initial_time, parameters, stage_data)
        problem.execution.begin()
        elastic = Elastic.of(problem)
        flat = Discretised.of(elastic.problem)
        guess = elastic.guess(guess_of(initial_guess))
        barrier = _WARM_BARRIER if isinstance(initial_guess, Trajectory) or guess.multipliers is not None else BARRIER
        with torch.no_grad():  # the search builds no graph; what a solution depends on is attached to it afterwards
            rest = diagnosed(flat, self._relaxed(flat, start_of(flat, guess), barrier, history))
        return solution_of(flat, rest, history, elastic)

    def _relaxed(self, flat: Discretised, start: Start, barrier: float, history: History | None) -> RawResult:
        method, tol, budget = self._method, self._tol, self._max_ticks
        if isinstance(method, Wave) and isinstance(method.impedance, Riccati):
            settings = Matched(tol, _or(budget, _MATCHED_TICKS), barrier)
            return relax_in_units(flat, start, settings, history, again=budget is None)
        _refuse_constraints(flat.problem, method)
        if isinstance(method, ForwardBackwardSweep):
            return relax_by_sweeps(flat, start, Sweeping(method.relaxation, tol, _or(budget, _SWEEPS)), history)
        if isinstance(method.impedance, (int, float)):
            scattered = Scattered(method.speed, float(method.impedance), tol, _or(budget, _WAVE_TICKS))
            return relax_scattered(flat, start, scattered, history)
        raise InputError(
            f"Wave: impedance must be a number or Riccati() for optimal control, got {method.impedance}",
            "Riccati(), the matched wave, or a positive number",
            "use Wave(impedance=Riccati())",
        )


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def guess_of(given: Guess | Trajectory | Tensor | None) -> Guess:
    """What a search may start from, as a guess."""
    if given is None:
        return Guess()
    if isinstance(given, Tensor):
        return Guess(controls=given)
    if isinstance(given, Trajectory):
        known = given.multipliers
        if known is not None:
            known = Multipliers(known.inequality.detach(), known.terminal.detach())
        excess = None if given.excess is None else given.excess.detach()
        fields = (given.controls.detach(), given.states.detach(), given.costates.detach(), given.duration.detach())
        unknowns = None if given.unknowns is None else given.unknowns.detach()
        return Guess(*fields, known, excess, unknowns)
    return given


def _refuse_constraints(problem: Problem, method: Wave | ForwardBackwardSweep) -> None:
    constrained = ("path_constraint", "terminal_constraint", "terminal_inequality", "duration", "unknowns")
    asked = [name for name in constrained if getattr(problem, name) is not None]
    asked += ["free_initial_state"] if problem.free_initial_state else []
    if asked:
        raise InputError(
            f"{method} cannot solve a problem with a {asked[0]}",
            "bounds on the controls, and nothing else that is constrained or free",
            "use Wave(impedance=Riccati()), or put the constraint into the cost",
        )

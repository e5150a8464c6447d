"""The loop of a problem that has to arrive: its duration is free, and each step leaves a stage fewer to go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.initial_guess import Guess
from worldsheet.control.mpc import Loop, from_the_next_instant
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import FreeDuration, Problem, unchecked
from worldsheet.control.solution import Trajectory
from worldsheet.control.solve import Solver, guess_of
from worldsheet.core.errors import InputError


@final
@dataclass(frozen=True)
class Leg:
    """What one step of a shrinking horizon applies.

    Attributes:
        control: (m,), within its bounds.
        length: how long it is held, ().
        fallback: whether the search failed and the plan before is followed.
        plan: what the search ended with.
    """

    control: Tensor
    length: Tensor
    fallback: bool
    plan: Trajectory


@final
class ShrinkingHorizon:
    """A controller for a problem of free duration: it plans from where the plant is to the end, at every step anew.

    A step applies the first control of the plan as long as the plan's first stage is, and leaves a problem with a stage
    less. What is left of a plan is the start of the next one, with its multipliers, on the same grid, so that active
    limits stay where they are. After N steps the plant has arrived. A step that fails follows the plan before.

    Args:
        problem: of one plant, with a free duration.
        tol: of `ws.control.solve`.
        max_ticks: per step; a search that needs more has failed.

    Raises:
        InputError: a fixed duration, several plants, or something else that is chosen.
    """

    def __init__(self, problem: Problem, tol: float = 1e-6, max_ticks: int | None = None) -> None:
        _refuse(problem)
        self._problem, self._options = from_the_next_instant(problem), (tol, max_ticks)
        self._done = 0
        self._before: Guess | None = None

    @property
    def left(self) -> int:
        """How many steps are left."""
        return self._problem.steps - self._done

    def step(self, state: Tensor, time: float) -> Leg:
        """Plan from a state (n,) to the end, and say what to apply, and for how long.

        Raises:
            InputError: after the last step.
        """
        if not self.left:
            raise InputError(
                "ShrinkingHorizon has no step left: the plant has arrived", "as many steps as stages", "begin a new one"
            )
        problem, before = self._rest(state, time), self._before
        solver = Solver(problem, tol=self._options[0], max_ticks=self._options[1])
        plan = solver.solve(before)
        failed = before is not None and not bool(plan.converged)
        followed = before if failed and before is not None else guess_of(plan)
        assert followed.controls is not None
        assert followed.duration is not None
        low, high = problem.first_limits()
        control = followed.controls[0].nan_to_num(0.0, 0.0, 0.0).clamp(low, high)
        length = followed.duration * problem.stage_lengths()[0] / problem.steps
        self._before, self._done = _without_first(followed, followed.duration - length), self._done + 1
        return Leg(control, length, failed or not bool(plan.converged), plan)

    @torch.no_grad()
    def run(
        self,
        state: Tensor,
        plant: Callable[[Tensor, Tensor, float, float], Tensor] | None = None,
        steps: int | None = None,
    ) -> Loop:
        """Drive a plant to the end from a state (n,).

        Args:
            state: where it is.
            plant: (x, u, t, length) → the state so much later, with whatever disturbs it; the model itself by default.
            steps: at most so many; all that are left by default.
        """
        states, legs, times = [state], list[Leg](), [self._problem.initial_time]
        for _ in range(self.left if steps is None else min(steps, self.left)):
            leg = self.step(states[-1], times[-1])
            length = float(leg.length)
            move = self.model if plant is None else plant
            states.append(move(states[-1], leg.control, times[-1], length))
            legs.append(leg)
            times.append(times[-1] + length)
        return Loop(
            torch.stack(states, -2),
            torch.stack([leg.control for leg in legs], -2),
            torch.stack([leg.plan.ticks for leg in legs], -1),
            torch.stack([leg.plan.converged for leg in legs], -1),
            torch.tensor([leg.fallback for leg in legs]),
            torch.stack([leg.plan.residuals.worst() for leg in legs], -1),
            tuple(leg.plan.outcomes for leg in legs),
            state.new_tensor(times),
        )

    def model(self, state: Tensor, control: Tensor, time: float, length: float) -> Tensor:
        """The state a stage of some length later, as the problem has it."""
        done = min(self._done, self._problem.steps - 1)
        data = self._problem.stage_data
        stage = unchecked(
            self._problem.at(state, time),
            steps=1,
            dt=length,
            duration=None,
            bounds=None,
            stage_data=None if data is None else data[..., done : done + 2, :],
        )
        flat = Discretised.of(stage)
        return flat.instant(0).following(flat.start, control[None])[0]

    def _rest(self, state: Tensor, time: float) -> Problem:
        """The problem from here on."""
        whole, done, left = self._problem, self._done, self.left
        assert whole.duration is not None
        lengths = whole.dt[done:] if isinstance(whole.dt, Tensor) else whole.dt
        data, bounds = whole.stage_data, whole.bounds
        if whole.limits()[0].dim() > 1:
            low, high = whole.limits()
            bounds = low[done:], high[done:]
        share = float(whole.stage_lengths()[done:].sum()) / whole.steps
        return unchecked(
            whole.at(state, time),
            steps=left,
            dt=lengths,
            bounds=bounds,
            stage_data=None if data is None else data[..., done:, :],
            duration=FreeDuration(whole.duration.guess * share),
        )


def _without_first(plan: Guess, duration: Tensor) -> Guess | None:
    """What is left of a plan after its first stage; None after the last."""
    assert plan.controls is not None
    if len(plan.controls) == 1:
        return None

    def later(field: Tensor | None) -> Tensor | None:
        return None if field is None else field[..., 1:, :]

    known = plan.multipliers
    known = None if known is None else Multipliers(known.inequality[..., 1:, :], known.terminal)
    fields = (later(plan.controls), later(plan.states), later(plan.costates))
    return Guess(*fields, duration, known, later(plan.excess))


def _refuse(problem: Problem) -> None:
    for holds, wrong, remedy in (
        (problem.duration is None, "its duration is fixed", "use MPC"),
        (len(problem.batch) > 0, "it has several plants", "use one controller for each"),
        (problem.free_initial_state or problem.unknowns is not None, "it chooses what is measured", "use MHE for that"),
    ):
        if holds:
            raise InputError(
                f"ShrinkingHorizon cannot control with this problem: {wrong}",
                "a problem of one plant with a free duration",
                remedy,
            )

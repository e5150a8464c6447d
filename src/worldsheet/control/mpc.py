"""Receding horizon: solve, use the first control, move on, start again from what was found."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.limits import PathLimit, joined, limits_of
from worldsheet.control.methods.forward_backward import ForwardBackwardSweep
from worldsheet.control.methods.initial_guess import Guess, middle
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import Problem
from worldsheet.control.solution import Trajectory
from worldsheet.control.solve import Solver, guess_of
from worldsheet.core.errors import InputError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.words import number_of, shape_of
from worldsheet.dynamics import Riccati, Wave

_MATCHED = Wave(impedance=Riccati())


@final
@dataclass(frozen=True)
class RealTimeIteration:
    """A few ticks a step, whose result is applied whether it is solved or not; only the first plan is solved.

    The plan becomes better from step to step while the plant moves. A step of it takes the same time each.

    Args:
        ticks: per step.

    Raises:
        InputError: no tick.
    """

    ticks: int = 1

    def __post_init__(self) -> None:
        """Refuse a plan that never changes."""
        if self.ticks < 1:
            raise InputError(
                f"RealTimeIteration: ticks must be at least 1, got {self.ticks}", "1 or more", "use RealTimeIteration()"
            )


@final
@dataclass(frozen=True)
class Move:
    """What one step applies.

    Attributes:
        control: (..., m), within its bounds.
        fallback: where the search failed and the plan before is followed, (...).
        plan: what the search ended with; its `outcomes` say how.
    """

    control: Tensor
    fallback: Tensor
    plan: Trajectory


@final
@dataclass(frozen=True)
class Loop:
    """A closed-loop run.

    Attributes:
        states: where the plant was, (..., K + 1, n).
        controls: what it was told, (..., K, m).
        ticks: of the solver at every step, (..., K).
        converged: of the solver at every step, (..., K).
        fallback: where a search failed and the plan before was followed, (..., K).
        residuals: the largest at every step, (..., K).
        outcomes: how the search of each plant of the flattened batch ended, step by step.
        times: of the states, (K + 1,).
    """

    states: Tensor
    controls: Tensor
    ticks: Tensor
    converged: Tensor
    fallback: Tensor
    residuals: Tensor
    outcomes: tuple[tuple[Outcome, ...], ...]
    times: Tensor

    @property
    def report(self) -> str:
        """How many searches were solved, and at which steps the plan before was followed, and why."""
        count, failed = self.converged.numel(), self.fallback.reshape(-1, len(self.outcomes)).nonzero().tolist()
        lines = [f"{int(self.converged.sum())} of {count} searches converged, {len(failed)} plans before were followed"]
        lines += [f"plant {plant}, step {step}: {self.outcomes[step][plant]}" for plant, step in failed]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"Loop: {self.report.splitlines()[0]}, in {number_of(self.ticks)} ticks\n"
            f"  states {shape_of(self.states)}, controls {shape_of(self.controls)}"
        )


@final
class MPC:
    """A controller that solves a problem from where the plant is, at every step anew.

    Each solve starts from the plan before, shifted by a stage, with its multipliers: near it one or two ticks are
    enough, also where limits are active. A step that fails follows the plan before a stage further, within the bounds
    of the controls, and says so. A batch of plants is controlled at once, each with its own plan.

    Args:
        problem: horizon, costs and limits; its initial state only says how many plants there are. A step lasts as long
            as the first stage.
        method: of `ws.control.solve`.
        tol: of `ws.control.solve`.
        max_ticks: per step; a search that needs more has failed.
        real_time: a budget per step instead, whose result is applied, solved or not.
        limits_at_start: whether limits on states alone are asked of the measured state, too. Nothing can be done about
            that, so that they are asked from the next instant on unless this is true. Limits in which controls play a
            part are asked as the problem says.

    Raises:
        InputError: a free duration, which has no first stage of known length; a free initial state, or unknowns.
    """

    def __init__(
        self,
        problem: Problem,
        method: Wave | ForwardBackwardSweep = _MATCHED,
        tol: float = 1e-6,
        max_ticks: int | None = None,
        real_time: RealTimeIteration | None = None,
        *,
        limits_at_start: bool = False,
    ) -> None:
        if problem.duration is not None:
            raise InputError(
                "MPC needs a fixed horizon, and this problem has a free duration",
                "a fixed dt",
                "use ShrinkingHorizon, or leave duration out",
            )
        if problem.free_initial_state or problem.unknowns is not None:
            raise InputError(
                "MPC cannot choose what is measured, and this problem has a free initial state or unknowns",
                "free_initial_state=False and unknowns=None",
                "estimate them with MHE, and hand them over as the state and the parameters of a step",
            )
        self._problem = problem if limits_at_start else from_the_next_instant(problem)
        self._solver = Solver(self._problem, method, tol, max_ticks)
        self._ticking = None if real_time is None else Solver(self._problem, method, tol, real_time.ticks)
        self._length = float(problem.stage_lengths()[0])
        self._parameters: Tensor | None = None
        self._stage_data: Tensor | None = None
        self._before: Guess | None = None
        self.solution: Trajectory | None = None

    def control(
        self, state: Tensor, time: float = 0.0, parameters: Tensor | None = None, stage_data: Tensor | None = None
    ) -> Tensor:
        """The control (..., m) for the stage that begins now, at a state (..., n)."""
        return self.step(state, time, parameters, stage_data).control

    def plan(
        self, state: Tensor, time: float = 0.0, parameters: Tensor | None = None, stage_data: Tensor | None = None
    ) -> Trajectory:
        """The whole horizon from a state (..., n), started from the last plan; it is kept as `solution`."""
        return self.step(state, time, parameters, stage_data).plan

    def step(
        self, state: Tensor, time: float = 0.0, parameters: Tensor | None = None, stage_data: Tensor | None = None
    ) -> Move:
        """Plan from a state (..., n) and say what to apply for a stage.

        Args:
            state: where the plant is.
            time: when.
            parameters: of the problem from now on, (..., q); those of the step before if left out.
            stage_data: of the horizon that begins now, (..., N + 1, d); those of the step before if left out.
        """
        before = self._before
        solver = self._solver if before is None or self._ticking is None else self._ticking
        self._parameters = self._parameters if parameters is None else parameters
        self._stage_data = self._stage_data if stage_data is None else stage_data
        plan = solver.solve(
            before,
            initial_state=state,
            initial_time=time,
            parameters=self._parameters,
            stage_data=self._stage_data,
        )
        fine = plan.converged.to(state.device) if solver is self._solver else _usable(plan)
        low, high = plan.problem.first_limits()
        control = plan.controls[..., 0, :]
        other = torch.where(control.isfinite(), control, middle(low, high)) if before is None else _first(before)
        control = torch.where(fine[..., None], control, other).clamp(low, high)
        followed = _followed(fine, guess_of(plan), before)
        self._before = None if followed is None else self._shifted(followed, time)
        self.solution = plan
        return Move(control, ~fine, plan)

    @torch.no_grad()
    def run(
        self,
        state: Tensor,
        steps: int,
        plant: Callable[[Tensor, Tensor, float], Tensor] | None = None,
        parameters: Callable[[float], Tensor] | None = None,
        stage_data: Callable[[float], Tensor] | None = None,
    ) -> Loop:
        """Drive a plant for `steps` stages from a state; nothing carries gradients (`control` does).

        Args:
            state: where it is, (..., n).
            steps: how often it is controlled.
            plant: (x, u, t) → the state a stage later, with whatever disturbs it; the model itself by default.
            parameters: t → those of the problem from then on, (..., q); the problem's own by default.
            stage_data: t → those of the horizon that begins then, (..., N + 1, d); the problem's own by default.
        """
        states, moves = [state], list[Move]()
        for k in range(steps):
            time = self._problem.initial_time + k * self._length
            given, data = (None if of is None else of(time) for of in (parameters, stage_data))
            move = self.step(state, time, given, data)
            state = self.model(state, move.control, time) if plant is None else plant(state, move.control, time)
            states.append(state)
            moves.append(move)
        return Loop(
            torch.stack(states, -2),
            torch.stack([move.control for move in moves], -2),
            torch.stack([move.plan.ticks for move in moves], -1),
            torch.stack([move.plan.converged for move in moves], -1),
            torch.stack([move.fallback for move in moves], -1),
            torch.stack([move.plan.residuals.worst() for move in moves], -1),
            tuple(move.plan.outcomes for move in moves),
            self._problem.initial_time + self._length * torch.arange(steps + 1, dtype=state.dtype),
        )

    def model(self, state: Tensor, control: Tensor, time: float = 0.0) -> Tensor:
        """The state a stage later, as the problem has it."""
        flat = Discretised.of(self._problem.at(state, time, self._parameters, self._stage_data))
        following = flat.instant(0).following(flat.start, control.reshape(len(flat.start), -1))
        return following[:, : state.shape[-1]].reshape(state.shape)

    @torch.no_grad()
    def _shifted(self, plan: Guess, time: float) -> Guess:
        """A stage later, the last stage done twice, to where the model says that it leads.

        Where stages have lengths of their own, plans are of other instants and stay as they are.
        """
        if isinstance(self._problem.dt, Tensor):
            return plan
        assert plan.states is not None
        assert plan.controls is not None
        last = plan.states[..., -1, :]
        end = self.model(last, plan.controls[..., -1, :], time + self._problem.steps * self._length)
        end = torch.where(end.isfinite().all(-1, keepdim=True), end, last)
        known = plan.multipliers
        return replace(
            plan,
            states=torch.cat((plan.states[..., 1:, :], end[..., None, :]), -2),
            costates=_later(plan.costates),
            controls=_later(plan.controls),
            excess=_later(plan.excess),
            multipliers=known and replace(known, inequality=_repeated(known.inequality)),
        )


def _usable(plan: Trajectory) -> Tensor:
    """Where a search that was not to end is worth applying, (...)."""
    fine = torch.tensor([outcome.status is not Status.DIVERGED for outcome in plan.outcomes], device=plan.cost.device)
    finite = plan.states.isfinite().flatten(-2).all(-1) & plan.controls.isfinite().flatten(-2).all(-1)
    return fine.reshape(plan.cost.shape) & finite


def _followed(fine: Tensor, plan: Guess, before: Guess | None) -> Guess | None:
    """Each plant's plan: what was found, or the one before where that failed; None where none is worth a start."""
    if before is None:
        return _finite(plan) if bool(fine.any()) else None

    def chosen(new: Tensor | None, old: Tensor | None) -> Tensor | None:
        return None if new is None or old is None else torch.where(fine[..., None, None], new, old)

    known, earlier = plan.multipliers, before.multipliers
    multipliers = None
    if known is not None and earlier is not None:
        multipliers = Multipliers(
            torch.where(fine[..., None, None], known.inequality, earlier.inequality),
            torch.where(fine[..., None], known.terminal, earlier.terminal),
        )
    return Guess(
        chosen(plan.controls, before.controls),
        chosen(plan.states, before.states),
        chosen(plan.costates, before.costates),
        multipliers=multipliers,
        excess=chosen(plan.excess, before.excess),
    )


def _finite(plan: Guess) -> Guess:
    """A plan to start from, also for plants whose search overflowed."""

    def tamed(field: Tensor | None) -> Tensor | None:
        return None if field is None else field.nan_to_num(0.0, 0.0, 0.0)

    known = plan.multipliers
    if known is not None:
        known = Multipliers(known.inequality.nan_to_num(0.0, 0.0, 0.0), known.terminal.nan_to_num(0.0, 0.0, 0.0))
    excess = tamed(plan.excess)
    return Guess(tamed(plan.controls), tamed(plan.states), tamed(plan.costates), tamed(plan.duration), known, excess)


def _first(plan: Guess) -> Tensor:
    assert plan.controls is not None
    return plan.controls[..., 0, :]


def _later(field: Tensor | None) -> Tensor | None:
    return None if field is None else _repeated(field)


def _repeated(field: Tensor) -> Tensor:
    """A stage later, the last twice."""
    return torch.cat((field[..., 1:, :], field[..., -1:, :]), -2)


def from_the_next_instant(problem: Problem) -> Problem:
    """With limits in which controls play no part asked from stage 1 on."""
    limits = limits_of(problem.path_constraint)
    made = [_later_limit(problem, limit) for limit in limits]
    return problem if made == list(limits) else replace(problem, path_constraint=joined(made))


@torch.no_grad()
def _later_limit(problem: Problem, limit: PathLimit) -> PathLimit:
    """Rows that do not feel controls, neither other ones nor NaN, are asked from stage 1 on."""
    state, control, time, *extra = problem.arguments()
    state = state + 0.37 + 0.11 * torch.arange(state.shape[-1]).to(state)
    low, high = problem.first_limits()
    steps = 0.29 * (1 + torch.arange(control.shape[-1]).to(control))
    others = [(control + side * steps).clamp(low, high) for side in (1.0, -1.7)]
    others.append(torch.full_like(control, torch.nan))  # felt wherever controls play a part, if not by a comparison
    values = [limit(state, each, time, *extra) for each in (control, *others)]
    rows = values[0].shape[-1]
    alone = torch.stack([each == values[0] for each in values[1:]]).flatten(0, -2).all(0).tolist()
    firsts = limit.firsts(rows)
    later = tuple(max(first, 1) if free else first for first, free in zip(firsts, alone, strict=True))
    return limit if list(later) == firsts else replace(limit, first=later)

"""Moving-horizon estimation: where a plant is, from what has been measured of late and what was known before that."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.control.compiled.execution import Eager
from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_stages
from worldsheet.control.given import END, STAGE, Given
from worldsheet.control.integrator import Discrete
from worldsheet.control.limits import PathLimit, joined, limits_of
from worldsheet.control.methods.initial_guess import Guess, middle
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import Problem, unchecked
from worldsheet.control.solution import Trajectory
from worldsheet.control.solve import Solver
from worldsheet.core.errors import InputError
from worldsheet.core.words import shape_of

_LEAST = 1e-12  # of the largest variance, below which nothing is known for certain


@final
@dataclass(frozen=True)
class Arrival:
    """What is known at the start of the window from all that was before: a normal law of the state and unknowns.

    Attributes:
        mean: (..., n + q).
        covariance: (..., n + q, n + q).
    """

    mean: Tensor
    covariance: Tensor

    def __repr__(self) -> str:
        return f"Arrival with mean {shape_of(self.mean)} and covariance {shape_of(self.covariance)}"


@final
@dataclass(frozen=True)
class Estimate:
    """What is known after a measurement.

    Attributes:
        state: where the plant is now, (..., n).
        unknowns: parameters that are chosen, (..., q); None where there are none.
        fallback: where the search failed, and the estimate before is followed by the model, (...).
        window: the trajectory that explains what was measured, which ends now; its `outcomes` say how it was found.
    """

    state: Tensor
    unknowns: Tensor | None
    fallback: Tensor
    window: Trajectory


class _Known(NamedTuple):
    """The trajectory of a window, (..., K + 1, n), (..., K, m), (..., K + 1, n), (..., q), (..., K, p)."""

    states: Tensor
    controls: Tensor
    costates: Tensor
    unknowns: Tensor | None
    inequality: Tensor | None


@final
class MHE:
    """An estimator that looks at the last N + 1 measurements, and at what those before have left behind.

    The problem says how the plant moves and what a misfit costs: controls are what disturbs the plant, `stage_cost` and
    `terminal_cost` compare a state with the measurement of its instant, which is its row of `stage_data`. What is known
    besides, such as what the plant was told, may stand in the same row.

        minimise ½ |z_0 − z̄|²_Π + Σ_k c_k(x_k, u_k, y_k) + φ(x_N, y_N)       z = (x, unknowns)

    Until N + 1 measurements are there the window grows; then it moves on with each. The stage that is left behind goes
    into the arrival cost, to second order at the solution: its covariance is C H⁻¹ Cᵀ, and its mean lies C H⁻¹ g before
    where the stage leads, with C the Jacobian of the stage, g and H the slope and the Hessian of what the stage costs
    and of what was known before. For a linear plant and quadratic costs these are the Kalman filter's, and so is the
    estimate, whatever N is. Limits play no part in the arrival cost, only in the window. A batch of plants is estimated
    at once. With `Compiled()` there is code for the full window only.

    Args:
        problem: with a free initial state; `initial_state` (and the guess of unknowns) is what is known before the
            first measurement. Its stage data only say how many numbers a row has.
        covariance: of that, (n + q, n + q) or (..., n + q, n + q), positive definite.
        tol: of `ws.control.solve`.
        max_ticks: per step; a search that needs more has failed.

    Raises:
        InputError: a problem without free initial state or stage data, with an initial cost of its own, a free
            duration or stages of different lengths; a covariance of another shape.
    """

    def __init__(self, problem: Problem, covariance: Tensor, tol: float = 1e-8, max_ticks: int | None = None) -> None:
        _refuse(problem)
        mean = problem.initial_state
        if problem.unknowns is not None:
            guess = problem.unknowns.guess
            mean = torch.cat((mean, guess.expand(*problem.batch, guess.shape[-1])), -1)
        size = mean.shape[-1]
        _check_covariance(covariance, size)
        self.arrival = Arrival(mean.detach(), covariance.detach().to(mean).expand(*problem.batch, size, size))
        self._problem, self._options = problem, (tol, max_ticks)
        self._solver = Solver(_with_arrival(problem, self.arrival), tol=tol, max_ticks=max_ticks)
        self._rows: list[Tensor] = []
        self._known: _Known | None = None
        self._left = 0

    @property
    def time(self) -> float:
        """When the window starts."""
        return self._problem.initial_time + self._left * float(self._problem.dt)

    def step(self, row: Tensor, before: Tensor | None = None, parameters: Tensor | None = None) -> Estimate:
        """Take the row of stage data of the next instant, and say where the plant is; nothing carries gradients.

        Args:
            row: (d,) or (..., d); what is not known of it yet, such as what the plant will be told, plays no part.
            before: the row of the instant before as it is known now, with what the plant was told since.
            parameters: of the problem from now on, (..., q).
        """
        with torch.no_grad():
            if before is not None and self._rows:
                self._rows[-1] = self._row(before)
            self._rows.append(self._row(row))
            if parameters is not None:
                self._problem = self._problem.at(self._problem.initial_state, parameters=parameters)
            if len(self._rows) > self._problem.steps + 1:
                self._leave_behind()
            begun = None if self._known is None else self._ahead(self._known)
            window = self._alone() if begun is None else self._solved(begun)
            fine, found = window.converged.to(row.device), _known(window)
            if begun is None:  # of a stage without time, only the end counts
                controls = found.controls.new_zeros((*self._problem.batch, 0, self._problem.control_size))
                found = _Known(found.states[..., 1:, :], controls, found.costates[..., 1:, :], found.unknowns, None)
            self._known = found if begun is None else _chosen(fine, found, begun)
            return Estimate(self._known.states[..., -1, :], self._known.unknowns, ~fine, window)

    def _row(self, row: Tensor) -> Tensor:
        assert self._problem.stage_data is not None
        wanted, like = self._problem.stage_data.shape[-1], self._problem.initial_state
        if row.dim() == 0 or row.shape[-1] != wanted:
            raise InputError(
                f"MHE: a row has shape {tuple(row.shape)}, and the problem's stage data have rows of {wanted}",
                f"shape ({wanted},) or (..., {wanted})",
                "give what the functions of the problem read at one instant",
            )
        return row.detach().to(like).expand(*self._problem.batch, wanted)

    def _solved(self, begun: _Known) -> Trajectory:
        """Explain all rows there are, from a first idea."""
        data, steps = torch.stack(self._rows, -2), len(self._rows) - 1
        problem = _with_arrival(self._problem, self.arrival)
        guess = Guess(begun.controls, begun.states, begun.costates, None, _multipliers(begun), unknowns=begun.unknowns)
        if steps < self._problem.steps:
            short = unchecked(problem, steps=steps, stage_data=data, initial_time=self.time, execution=Eager())
            return Solver(short, tol=self._options[0], max_ticks=self._options[1]).solve(guess)
        return self._solver.solve(
            guess,
            initial_state=problem.initial_state,
            initial_time=self.time,
            parameters=problem.parameters,
            stage_data=data,
        )

    def _alone(self) -> Trajectory:
        """Explain the first measurement, by a stage that takes no time and leads nowhere."""
        problem = unchecked(
            _with_arrival(self._problem, self.arrival),
            dynamics=_stay,
            running_cost=_free,
            stage_cost=None,
            path_constraint=None,
            terminal_inequality=None,
            control_size=0,
            bounds=None,
            steps=1,
            integrator=Discrete(),
            stage_data=torch.stack((self._rows[0], self._rows[0]), -2),
            execution=Eager(),
        )
        return Solver(problem, tol=self._options[0], max_ticks=self._options[1]).solve()

    def _ahead(self, known: _Known) -> _Known:
        """A window, and the stage since, in which nothing disturbed the plant."""
        last = known.states[..., -1, :]
        stages = known.states.shape[-2] - 1
        flat = self._stage(last, stages, known.unknowns)
        quiet = middle(*self._problem.first_limits()).expand(*last.shape[:-1], -1)
        reached = flat.instant(0).following(flat.start, quiet.reshape(len(flat.start), -1))
        reached = reached[:, : last.shape[-1]].reshape(last.shape)
        reached = torch.where(reached.isfinite().all(-1, keepdim=True), reached, last)
        return known._replace(
            states=torch.cat((known.states, reached[..., None, :]), -2),
            controls=torch.cat((known.controls, quiet[..., None, :]), -2),
            costates=torch.cat((known.costates, torch.zeros_like(known.costates[..., -1:, :])), -2),
            inequality=None if known.inequality is None else _repeated(known.inequality),
        )

    def _stage(self, state: Tensor, number: int, unknowns: Tensor | None) -> Discretised:
        """One stage of the window, from a state (..., n)."""
        chosen = self._problem.unknowns
        rows = torch.stack(self._rows[number : number + 2], -2)
        problem = unchecked(
            self._problem,
            initial_state=state,
            initial_time=self.time + number * float(self._problem.dt),
            steps=1,
            stage_data=rows,
            unknowns=None if chosen is None or unknowns is None else replace(chosen, guess=unknowns),
        )
        return Discretised.of(problem)

    def _leave_behind(self) -> None:
        """Put the first stage of the window into the arrival cost."""
        known = self._known
        assert known is not None
        flat = self._stage(known.states[..., 0, :], 0, known.unknowns)
        arrival, size = self.arrival, flat.size
        point = torch.cat((flat.start, known.controls[..., 0, :].reshape(len(flat.start), -1)), -1)[:, None]
        worth = known.costates[..., 1, :].reshape(len(flat.start), -1)
        values = flat.stages(point)
        weights = torch.zeros_like(values)
        weights[..., 0], weights[..., 1 : 1 + worth.shape[-1]] = 1, worth[:, None]
        stage = expand_stages(flat, point, weights)
        pad = (0, point.shape[-1] - size)
        before, apart = (
            _information(arrival.covariance).reshape(-1, size, size),
            flat.start - arrival.mean.reshape(-1, size),
        )
        hessian = stage.hessian[:, 0] + torch.nn.functional.pad(before, pad * 2)
        slope = stage.jacobian[:, 0, 0] + torch.nn.functional.pad((before @ apart[..., None])[..., 0], pad)
        onward = stage.jacobian[:, 0, 1 : 1 + size]
        answer = _inverse(hessian) @ torch.cat((onward.mT, slope[..., None]), -1)
        moved = onward @ answer
        mean = values[:, 0, 1 : 1 + size] - moved[..., size]
        self.arrival = Arrival(mean.reshape(arrival.mean.shape), moved[..., :size].reshape(arrival.covariance.shape))
        self._left, self._rows = self._left + 1, self._rows[1:]
        self._known = self._without_first(known)

    def _without_first(self, known: _Known) -> _Known:
        """The window from its second stage on; bounds of unknowns are asked of whichever is the first."""
        force = known.inequality if known.controls.shape[-2] > 1 else None
        if force is not None:
            before = sum(self._problem.path_rows()) + self._problem.terminal_rows()
            rows = slice(before, before + self._problem.unknown_rows())
            first, force = force[..., 0, rows], force[..., 1:, :].clone()
            force[..., 0, rows] = first
        states, controls, costates = (part[..., 1:, :] for part in (known.states, known.controls, known.costates))
        return _Known(states, controls, costates, known.unknowns, force)


@final
@dataclass(frozen=True)
class _ArrivalCost:
    """½ |z − z̄|² by its information; z̄ and that are the last parameters, behind the user's `count`."""

    count: int
    size: int

    def __call__(self, state: Tensor, known: Tensor, *more: Tensor) -> Tensor:
        chosen = torch.cat((state, more[-1]), -1) if state.shape[-1] < self.size else state
        own = known[..., self.count :]
        apart, information = chosen - own[..., : self.size], own[..., self.size :]
        square = information.reshape(*apart.shape, self.size)
        return 0.5 * (apart * (square * apart[..., None, :]).sum(-1)).sum(-1)


def _with_arrival(problem: Problem, arrival: Arrival) -> Problem:
    """A problem with what is known before as its initial cost, by parameters that only that sees."""
    known, size = problem.parameters, arrival.mean.shape[-1]
    count = 0 if known is None else known.shape[-1]
    extra = torch.cat((arrival.mean, _information(arrival.covariance).flatten(-2)), -1)
    if known is not None:
        extra = torch.cat((known.expand(*problem.batch, count), extra), -1)
    limits = [PathLimit(Given(limit.function, count, STAGE), limit.first, limit.price) for limit in _limits(problem)]

    def put(function: Callable[..., Tensor] | None, place: int) -> Given | None:
        return None if function is None else Given(function, count, place)

    return unchecked(
        problem,
        parameters=extra,
        dynamics=Given(problem.dynamics, count, STAGE),
        running_cost=Given(problem.running_cost, count, STAGE),
        stage_cost=put(problem.stage_cost, STAGE),
        initial_cost=_ArrivalCost(count, size),
        terminal_cost=put(problem.terminal_cost, END),
        path_constraint=joined(limits),
        terminal_inequality=put(problem.terminal_inequality, END),
    )


def _limits(problem: Problem) -> tuple[PathLimit, ...]:
    return limits_of(problem.path_constraint)


def _stay(state: Tensor, control: Tensor, time: Tensor, *more: Tensor) -> Tensor:
    return state


def _free(state: Tensor, control: Tensor, time: Tensor, *more: Tensor) -> Tensor:
    return torch.zeros_like(time)


def _known(window: Trajectory) -> _Known:
    force = None if window.multipliers is None else window.multipliers.inequality
    return _Known(window.states, window.controls, window.costates, window.unknowns, force)


def _chosen(fine: Tensor, found: _Known, begun: _Known) -> _Known:
    """What was found where that is fine, (...), else what the search began with."""

    def put(new: Tensor | None, old: Tensor | None) -> Tensor | None:
        if new is None or old is None:
            return new
        return torch.where(fine.reshape(*fine.shape, *[1] * (new.dim() - fine.dim())), new, old)

    return _Known(*(put(new, old) for new, old in zip(found, begun, strict=True)))  # type: ignore[arg-type]


def _multipliers(known: _Known) -> Multipliers | None:
    force = known.inequality
    return None if force is None else Multipliers(force, force.new_zeros((*force.shape[:-2], 0)))


def _repeated(field: Tensor) -> Tensor:
    """With the last stage twice."""
    return torch.cat((field, field[..., -1:, :]), -2)


def _information(covariance: Tensor) -> Tensor:
    """The inverse of a covariance, none of whose variances counts as less than 1e-12 of the largest."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    inverse: Tensor = (vectors / values.clamp(min=_LEAST * values[..., -1:])[..., None, :]) @ vectors.mT
    return inverse


def _inverse(hessian: Tensor) -> Tensor:
    """Of a Hessian, whose negative eigenvalues are taken for positive ones: there nothing is known so well."""
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
    sizes = values.abs()
    inverse: Tensor = (vectors / sizes.clamp(min=_LEAST * sizes.amax(-1, keepdim=True))[..., None, :]) @ vectors.mT
    return inverse


def _refuse(problem: Problem) -> None:
    """Refuse what has no window that moves on."""
    for holds, wrong, remedy in (
        (not problem.free_initial_state, "its initial state is given", "use free_initial_state=True"),
        (problem.stage_data is None, "it has no stage data", "give stage_data of the right shape, such as zeros"),
        (problem.initial_cost is not None, "it has an initial cost of its own", "say by `covariance` what is known"),
        (problem.duration is not None, "its duration is free", "use a fixed dt"),
        (problem.terminal_constraint is not None, "it has an end to reach", "leave terminal_constraint out"),
        (isinstance(problem.dt, Tensor), "its stages have lengths of their own", "use one dt for all"),
        (problem.limits()[0].dim() > 1, "its stages have bounds of their own", "use the same bounds for all"),
    ):
        if holds:
            raise InputError(
                f"MHE cannot move on with this problem: {wrong}",
                "a problem with a free initial state and stage data, all stages alike",
                remedy,
            )


def _check_covariance(covariance: Tensor, size: int) -> None:
    shape = tuple(covariance.shape[-2:])
    if shape != (size, size):
        raise InputError(
            f"MHE: covariance must be that of the {size} states and unknowns, got shape {tuple(covariance.shape)}",
            f"shape ({size}, {size}) or (..., {size}, {size})",
            "write for example 0.1 * torch.eye(n + q)",
        )
    if not bool((torch.linalg.eigvalsh(covariance) > 0).all()):
        raise InputError(
            "MHE: covariance must be positive definite", "variances above 0", "give what is known a small variance"
        )

"""Receding horizon: solve, use the first control, move on, start again from what was found."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.forward_backward import ForwardBackwardSweep
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import Problem
from worldsheet.control.solution import Trajectory
from worldsheet.control.solve import solve
from worldsheet.core.errors import InputError
from worldsheet.dynamics import Riccati, Wave

_MATCHED = Wave(impedance=Riccati())


@final
@dataclass(frozen=True)
class Loop:
    """A closed-loop run.

    Attributes:
        states: where the plant was, (..., K + 1, n).
        controls: what it was told, (..., K, m).
        ticks: of the solver at every step, (..., K).
        converged: of the solver at every step, (..., K).
    """

    states: Tensor
    controls: Tensor
    ticks: Tensor
    converged: Tensor


@final
class MPC:
    """A controller that solves a problem from where the plant is, at every step anew.

    Each solve starts from the last one, shifted by a stage, so that near a steady course one or two ticks are enough.
    A batch of plants is controlled at once.

    Args:
        problem: horizon, costs and limits; its initial state only says how many plants there are.
        method: of `ws.control.solve`.
        tol: of `ws.control.solve`.
        max_ticks: per step; what is not converged then is used as it is, and `solution.outcome` tells.

    Raises:
        InputError: a free duration, which has no first stage of known length.
    """

    def __init__(
        self,
        problem: Problem,
        method: Wave | ForwardBackwardSweep = _MATCHED,
        tol: float = 1e-6,
        max_ticks: int | None = None,
    ) -> None:
        if problem.duration is not None:
            raise InputError(
                "MPC needs a fixed horizon, and this problem has a free duration", "a fixed dt", "leave duration out"
            )
        self._problem = problem
        self._method = method
        self._tol = tol
        self._max_ticks = max_ticks
        self.solution: Trajectory | None = None

    def control(self, state: Tensor, time: float = 0.0) -> Tensor:
        """The control (..., m) for the stage that begins now, at a state (..., n)."""
        return self.plan(state, time).controls[..., 0, :]

    def plan(self, state: Tensor, time: float = 0.0) -> Trajectory:
        """The whole horizon from a state (..., n), started from the last plan; it is kept as `solution`."""
        warm = None if self.solution is None else _shifted(self.solution)
        self.solution = solve(self._problem.at(state, time), self._method, warm, self._tol, self._max_ticks)
        return self.solution

    @torch.no_grad()
    def run(self, state: Tensor, steps: int, plant: Callable[[Tensor, Tensor, float], Tensor] | None = None) -> Loop:
        """Drive a plant for `steps` stages from a state; nothing carries gradients (`control` does).

        Args:
            state: where it is, (..., n).
            steps: how often it is controlled.
            plant: (x, u, t) → the state a stage later, with whatever disturbs it; the model itself by default.
        """
        states, controls, ticks, converged = [state], [], [], []
        for k in range(steps):
            time = self._problem.initial_time + k * self._problem.dt
            plan = self.plan(state, time)
            control = plan.controls[..., 0, :]
            state = self.model(state, control, time) if plant is None else plant(state, control, time)
            states.append(state)
            controls.append(control)
            ticks.append(plan.ticks)
            converged.append(plan.converged)
        return Loop(
            torch.stack(states, -2), torch.stack(controls, -2), torch.stack(ticks, -1), torch.stack(converged, -1)
        )

    def model(self, state: Tensor, control: Tensor, time: float = 0.0) -> Tensor:
        """The state a stage later, as the problem has it."""
        flat = Discretised.of(self._problem.at(state, time))
        return flat.following(flat.start, control.reshape(len(flat.start), -1), flat.time.new_zeros(())).reshape(
            state.shape
        )


def _shifted(solution: Trajectory) -> Trajectory:
    """A stage later, the last stage done twice."""

    def later(field: Tensor) -> Tensor:
        return torch.cat((field[..., 1:, :], field[..., -1:, :]), -2)

    return replace(
        solution,
        states=later(solution.states),
        costates=later(solution.costates),
        controls=later(solution.controls),
        multipliers=None
        if solution.multipliers is None
        else Multipliers(later(solution.multipliers.inequality), solution.multipliers.terminal),
    )

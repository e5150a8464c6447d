"""Integrators: from a rate and a running cost to one stage of a discrete problem."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from torch import Tensor

from worldsheet.control.derivatives import newton_steps
from worldsheet.core.errors import InputError

Flow: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(state, time) → (rate of the state (..., n), rate of the cost (...)); the control is held over the stage."""


class Integrator(ABC):
    """One stage: the next state and the cost of getting there, the control held constant.

    The cost is integrated like one more state, so that the discrete problem is as accurate in its cost as in its path.
    """

    @abstractmethod
    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (..., n) and the cost of the stage (...); time and dt have the shape (...)."""


@final
@dataclass(frozen=True)
class Discrete(Integrator):
    """Discrete time: the dynamics returns the next state itself, the running cost the cost of the stage."""

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """One evaluation; dt only counts time."""
        return flow(state, time)


@final
@dataclass(frozen=True)
class ExplicitEuler(Integrator):
    """x⁺ = x + dt f(x): first order, stable while dt is below 2 over the fastest rate."""

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """One evaluation."""
        rate, cost = flow(state, time)
        return state + dt[..., None] * rate, dt * cost


@final
@dataclass(frozen=True)
class RK4(Integrator):
    """The classical Runge–Kutta method: fourth order, stable while dt is below about 2.8 over the fastest rate."""

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Four evaluations."""
        half, wide = 0.5 * dt, dt[..., None]
        middle = time + half
        k1, c1 = flow(state, time)
        k2, c2 = flow(state + half[..., None] * k1, middle)
        k3, c3 = flow(state + half[..., None] * k2, middle)
        k4, c4 = flow(state + wide * k3, time + dt)
        return state + wide / 6 * (k1 + 2 * (k2 + k3) + k4), dt / 6 * (c1 + 2 * (c2 + c3) + c4)


@final
@dataclass(frozen=True)
class ImplicitMidpoint(Integrator):
    """x⁺ = x + dt f((x + x⁺)/2): second order, symplectic, stable at any dt for decaying dynamics.

    The midpoint is found by Newton's method from x, exact in one iteration for linear dynamics.

    Args:
        iterations: Newton iterations, each one evaluation and one n × n Jacobian of the rate.

    Raises:
        InputError: no iteration at all.
    """

    iterations: int = 4

    def __post_init__(self) -> None:
        """Refuse an equation that is never solved."""
        if self.iterations < 1:
            raise InputError(f"{self}", "at least one Newton iteration", "use ImplicitMidpoint()")

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Solve m = x + dt/2 f(m) for the midpoint m."""
        half = 0.5 * dt
        middle = time + half

        def defect(midpoint: Tensor) -> Tensor:
            return state + half[..., None] * flow(midpoint, middle)[0] - midpoint

        midpoint = newton_steps(defect, state, self.iterations)
        return 2 * midpoint - state, dt * flow(midpoint, middle)[1]

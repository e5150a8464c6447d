"""Integrators: from a rate and a running cost to one stage of a discrete problem."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from worldsheet.control.implicit import MIDPOINT, RADAU, Flow, ImplicitMethod
from worldsheet.core.errors import InputError


class Tableau(NamedTuple):
    """An explicit Runge–Kutta method: x_i = x + dt Σ_{j<i} a_ij k_j at time t + c_i dt, x⁺ = x + dt Σ b_i k_i.

    Attributes:
        inner: a, one row per substage, as long as there are substages before it.
        outer: b.
        nodes: c.
    """

    inner: tuple[tuple[float, ...], ...]
    outer: tuple[float, ...]
    nodes: tuple[float, ...]


class Integrator(ABC):
    """One stage: the next state and the cost of getting there, the control held constant.

    The cost is integrated like one more state, so that the discrete problem is as accurate in its cost as in its path.
    """

    @property
    def tableau(self) -> Tableau | None:
        """Coefficients of an explicit Runge–Kutta method, whose stages are differentiated substage by substage."""
        return None

    @property
    def implicit(self) -> ImplicitMethod | None:
        """An implicit Runge–Kutta method, whose stages are differentiated at the root of their equations."""
        return None

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


_EULER = Tableau(((),), (1.0,), (0.0,))
_RK4 = Tableau(((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.5, 0.5, 1.0))


@final
@dataclass(frozen=True)
class ExplicitEuler(Integrator):
    """x⁺ = x + dt f(x): first order, stable while dt is below 2 over the fastest rate."""

    @property
    def tableau(self) -> Tableau:
        """One substage."""
        return _EULER

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """One evaluation."""
        return explicit_step(_EULER, flow, state, time, dt)


@final
@dataclass(frozen=True)
class RK4(Integrator):
    """The classical Runge–Kutta method: fourth order, stable while dt is below about 2.8 over the fastest rate."""

    @property
    def tableau(self) -> Tableau:
        """Four substages."""
        return _RK4

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Four evaluations."""
        return explicit_step(_RK4, flow, state, time, dt)


def explicit_step(table: Tableau, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an explicit Runge–Kutta method, one evaluation per substage."""
    wide = dt[..., None]
    rates: list[Tensor] = []
    costs: list[Tensor] = []
    for row, node in zip(table.inner, table.nodes, strict=True):
        place = state + wide * mixed(row, rates) if row else state
        rate, cost = flow(place, time + node * dt if node else time)
        rates.append(rate)
        costs.append(cost)
    return state + wide * mixed(table.outer, rates), dt * mixed(table.outer, costs)


def mixed(weights: tuple[float, ...], parts: list[Tensor]) -> Tensor:
    """Σ weight · part, without those of weight 0; at least one must have another."""
    used = [part if weight == 1 else weight * part for weight, part in zip(weights, parts, strict=True) if weight]
    total = used[0]
    for part in used[1:]:
        total = total + part
    return total


@final
@dataclass(frozen=True)
class ImplicitMidpoint(Integrator):
    """x⁺ = x + dt f((x + x⁺)/2): second order, symplectic, stable at any dt for decaying dynamics.

    What decays much faster than a step changes its sign at every step and hardly decays; `RadauIIA` damps it.

    Args:
        iterations: at most so many Newton iterations on the midpoint; each costs one evaluation and one n × n Jacobian
            of the rate. A stage whose equation they leave unsolved is NaN.

    Raises:
        InputError: no iteration at all.
    """

    iterations: int = 30

    def __post_init__(self) -> None:
        """Refuse an equation that is never solved."""
        _check_iterations(self, self.iterations)

    @property
    def implicit(self) -> ImplicitMethod:
        """One substage."""
        return ImplicitMethod(MIDPOINT, self.iterations)

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Solve m = x + dt/2 f(m) for the midpoint m."""
        return self.implicit.step(flow, state, time, dt)


@final
@dataclass(frozen=True)
class RadauIIA(Integrator):
    """The implicit Runge–Kutta method of Radau IIA, for stiff dynamics: order 2s − 1, and L-stable.

    What decays much faster than a step is gone after it, R(−∞) = 0. One substage is the implicit Euler method.

    Args:
        stages: s, the number of substages: 1, 2 or 3.
        iterations: at most so many Newton iterations on the equations of all substages together; each costs s
            evaluations with Jacobians of the rate and one factorisation of an s·n × s·n matrix. A stage whose equations
            they leave unsolved is NaN.

    Raises:
        InputError: another number of substages, or no iteration at all.

    Reference:
        Hairer & Wanner, Solving Ordinary Differential Equations II, 1996, sections IV.5 and IV.8.
    """

    stages: int = 3
    iterations: int = 30

    def __post_init__(self) -> None:
        """Refuse a method that is not written down here, and equations that are never solved."""
        if not 1 <= self.stages <= len(RADAU):
            raise InputError(
                f"RadauIIA: stages must be 1, 2 or 3, got {self.stages}",
                "the number of substages, which makes the order 1, 3 or 5",
                "use RadauIIA()",
            )
        _check_iterations(self, self.iterations)

    @property
    def implicit(self) -> ImplicitMethod:
        """So many substages, the last of them at the end of the step."""
        return ImplicitMethod(RADAU[self.stages - 1], self.iterations)

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for all substages; the last is the next state."""
        return self.implicit.step(flow, state, time, dt)


def _check_iterations(integrator: Integrator, iterations: int) -> None:
    if iterations < 1:
        name = type(integrator).__name__
        raise InputError(
            f"{name}: iterations must be at least 1, got {iterations}",
            "one Newton iteration or more",
            f"use {name}()",
        )

"""Problems whose units, symmetry or missing cost once kept the search from its end, against IPOPT's costs."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from worldsheet.dynamics import Riccati

C, DOUBLE = ws.control, torch.float64


def swing_up(unit: float) -> ws.control.Problem:
    """A pendulum with a third state that counts ∫u² in a unit of its own; the cost does not depend on the unit."""

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        angle, speed, _ = x.unbind(-1)
        force = u[..., 0]
        return torch.stack((speed, force - 9.81 * angle.sin() - 0.1 * speed, unit * force.square()), -1)

    def terminal(x: Tensor) -> Tensor:
        angle, speed, energy = x.unbind(-1)
        return 10 * ((angle - math.pi).square() + speed.square()) + 0.05 * energy / unit

    return C.Problem(
        dynamics=dynamics,
        running_cost=lambda x, u, t: 0.1 * (x[..., 0] - math.pi).square() + 0.01 * x[..., 1].square(),
        terminal_cost=terminal,
        control_size=1,
        steps=60,
        dt=0.05,
        initial_state=torch.zeros(3, dtype=DOUBLE),
        integrator=C.ExplicitEuler(),
        bounds=(-8.0, 8.0),
    )


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e-9, 1e3, 1e6])
def test_the_unit_of_a_state_makes_no_difference(unit: float) -> None:
    problem = swing_up(unit)
    found = C.solve(problem)
    assert found.outcome.converged
    assert found.outcome.ticks < 30
    assert float(found.cost) == pytest.approx(3.563870, abs=1e-6)
    state = problem.initial_state
    for control in found.controls:  # what is claimed of the third state is what its controls come to
        state = state + 0.05 * problem.dynamics(state, control, torch.tensor(0.0))
    assert float(found.states[-1, 2]) == pytest.approx(float(state[2]), rel=1e-7)


@pytest.mark.parametrize(
    "method", [ws.Wave(impedance=Riccati()), ws.Wave(impedance=0.3, speed=0.5), C.ForwardBackwardSweep(0.5)], ids=str
)
@pytest.mark.parametrize("worth", [1.0, 1e4])
def test_what_has_converged_tells_a_residual_within_the_tolerance(method: Any, worth: float) -> None:
    """Also where costates are large, and with them what residuals are compared with."""
    problem = C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0] - x[..., 0].sin()), -1),
        running_cost=lambda x, u, t: worth * (x.square().sum(-1) + u[..., 0].square()),
        initial_state=torch.tensor((1.0, 0.0), dtype=DOUBLE),
        control_size=1,
        steps=10,
        dt=0.05,
    )
    outcome = C.solve(problem, method, tol=1e-6).outcome
    if worth == 1:
        assert outcome.converged
    assert outcome.residual is not None
    assert outcome.converged == (outcome.residual <= 1e-6)


def test_a_boat_without_a_cost_of_steering_arrives_to_the_default_tolerance() -> None:
    """Zermelo: near the end a step that meets the constraints must count for more than the cost that it gives up."""
    problem = C.Problem(
        dynamics=lambda x, u, t: torch.stack((u[..., 0].cos() - x[..., 1], u[..., 0].sin()), -1),
        running_cost=lambda x, u, t: 1 + 0 * x[..., 0],
        terminal_constraint=lambda x: x,
        initial_state=torch.tensor((3.66, -1.86), dtype=DOUBLE),
        control_size=1,
        steps=60,
        duration=C.FreeDuration(5.0),
    )
    found = C.solve(problem)
    assert found.outcome.converged
    assert float(found.duration) == pytest.approx(5.4581812, abs=1e-6)


def parking() -> ws.control.Problem:
    """A car that moves one metre on and two aside in the least time; at rest, steering makes no difference."""

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        heading, speed, wheel = x[..., 2], x[..., 3], x[..., 4]
        turning = speed * wheel.tan() / 2.5
        return torch.stack((speed * heading.cos(), speed * heading.sin(), turning, u[..., 0], u[..., 1]), -1)

    def limits(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        y, speed, wheel = x[..., 1], x[..., 3], x[..., 4]
        return torch.stack((speed - 2, -2 - speed, wheel - 0.6, -0.6 - wheel, y - 3.5, -0.1 - y), -1)

    return C.Problem(
        dynamics=dynamics,
        running_cost=lambda x, u, t: 1 + 0.01 * u.square().sum(-1),
        terminal_constraint=lambda x: x - x.new_tensor((1.0, 0.0, 0.0, 0.0, 0.0)),
        initial_state=torch.tensor((0.0, 2.0, 0.0, 0.0, 0.0), dtype=DOUBLE),
        control_size=2,
        steps=80,
        duration=C.FreeDuration(8.0),
        bounds=([-1.5, -0.8], [1.5, 0.8]),
        path_constraint=limits,
    )


def standing(part: Tensor) -> Tensor:
    zero = 0 * part
    return torch.stack((part, 2 - 2 * part, zero, zero, zero), -1)


@pytest.mark.slow
@pytest.mark.parametrize("guess", [None, standing], ids=["no guess", "a straight line at rest"])
def test_a_car_parks_from_a_guess_at_rest(guess: Callable[[Tensor], Tensor] | None) -> None:
    problem = parking()
    states = None if guess is None else guess(torch.linspace(0, 1, 81, dtype=DOUBLE))
    found = C.solve(problem, initial_guess=C.Guess(states=states))
    assert found.outcome.converged
    assert float(found.cost) < 1.001 * 7.2638  # IPOPT's from the same guesses
    assert problem.path_constraint is not None
    assert float(problem.path_constraint(found.states[:-1], found.controls, found.times[:-1]).max()) < 1e-8


def walled(unit: float, *, back: bool, wall: bool = True) -> ws.control.Problem:
    """Bryson and Denham's mass before a wall at 1/9, everything but the cost measured in so many metres."""

    def arrival(x: Tensor) -> Tensor:
        return torch.stack((x[..., 0], x[..., 1] + 1 / unit), -1)

    return C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
        running_cost=lambda x, u, t: 0.5 * (unit * u[..., 0]).square(),
        terminal_cost=None if back else lambda x: 100 * (unit * arrival(x)).square().sum(-1),
        terminal_constraint=arrival if back else None,
        path_constraint=(lambda x, u, t: x[..., :1] - 1 / (9 * unit)) if wall else None,
        initial_state=torch.tensor([0.0, 1 / unit], dtype=DOUBLE),
        control_size=1,
        steps=30,
        dt=1 / 30,
    )


@pytest.mark.parametrize("unit", [1e-3, 1e3, 1e6, 1e9])
@pytest.mark.parametrize(
    ("back", "wall"), [(True, True), (True, False), (False, True)], ids=["both", "end alone", "wall alone"]
)
def test_the_unit_of_limits_makes_no_difference(unit: float, back: bool, wall: bool) -> None:
    """In gigametres both were once met to 1e-8 of them, which is 10 m on a way of 1 m: at the start, without a tick."""
    plain, problem = C.solve(walled(1.0, back=back, wall=wall)), walled(unit, back=back, wall=wall)
    found = C.solve(problem)
    assert found.outcome.converged
    assert found.outcome.ticks <= 2 * plain.outcome.ticks
    assert float(found.cost) == pytest.approx(float(plain.cost), rel=1e-6)
    if problem.terminal_constraint is not None:
        assert float(unit * problem.terminal_constraint(found.states[-1]).abs().max()) < 1e-7
    if problem.path_constraint is not None:
        exceeded = problem.path_constraint(found.states[:-1], found.controls, found.times[:-1])
        assert float(unit * exceeded.max()) < 1e-7


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3, 1e6, 1e9])
def test_a_mass_at_rest_stops_in_any_unit(unit: float) -> None:
    """Nothing says at first in which unit its speed is small, but the way that is missing."""

    def missing(x: Tensor) -> Tensor:
        return torch.stack((x[..., 0] - 1 / unit, x[..., 1]), -1)

    found = C.solve(
        C.Problem(
            dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
            running_cost=lambda x, u, t: 0.5 * (unit * u[..., 0]).square(),
            terminal_constraint=missing,
            initial_state=torch.zeros(2, dtype=DOUBLE),
            control_size=1,
            steps=30,
            dt=1 / 30,
        )
    )
    assert found.outcome.converged
    assert found.outcome.ticks < 30
    assert float(unit * missing(found.states[-1]).abs().max()) < 1e-7
    assert float(found.cost) == pytest.approx(6 / (1 - 1 / 900), rel=1e-7)  # 12 over twice Σ dt³ (k - 14.5)²

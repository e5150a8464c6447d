"""Linear dynamics with quadratic cost: the recursion of the textbook, and solutions on paper."""

from math import cosh, exp, sinh, sqrt

import pytest
import torch

import worldsheet as ws
from plants import DOUBLE, close, double_integrator, linear

SYSTEMS = [
    (1, 1, 1, 0.5),
    (2, 1, 20, 0.9),
    (3, 2, 100, 1.1),
    (4, 1, 300, 1.3),
    (6, 3, 1000, 0.99),
    (12, 4, 100, 1.5),
    (12, 2, 1000, 1.05),
]


@pytest.mark.parametrize(("size", "controls", "steps", "radius"), SYSTEMS)
def test_one_pass_is_the_riccati_recursion(size: int, controls: int, steps: int, radius: float) -> None:
    system = linear(size, controls, steps, radius, seed=size)
    sol = ws.control.solve(system.problem, max_ticks=1)
    for mine, theirs in zip((sol.states, sol.costates, sol.controls), system.riccati(), strict=True):
        close(mine, theirs, 1e-8)
    assert sol.outcome.converged
    assert sol.outcome.ticks == 1


def test_a_batch_is_the_same_recursion_stage_by_stage() -> None:
    system = linear(4, 2, 50, 1.1, seed=3, batch=(3, 7))
    sol = ws.control.solve(system.problem, max_ticks=1)
    assert sol.states.shape == (3, 7, 51, 4)
    for mine, theirs in zip((sol.states, sol.costates, sol.controls), system.riccati(), strict=True):
        close(mine, theirs, 1e-10)


def test_the_gains_are_those_of_the_regulator() -> None:
    system = linear(3, 2, 60, 1.2, seed=5)
    sol = ws.control.solve(system.problem)
    assert sol.gains is not None
    close(sol.controls, (sol.gains @ sol.states[:-1, :, None])[..., 0], 1e-9)
    value = (sol.states[0] * sol.costates[0]).sum() / 2
    assert float(sol.cost) == pytest.approx(float(value), rel=1e-12)  # J = ½ x₀ᵀP₀x₀


@pytest.mark.parametrize("rate", [-1.0, 0.5])
def test_the_scalar_regulator_in_continuous_time(rate: float) -> None:
    """ẋ = ax + u, ½∫x² + u² over T: the Riccati equation has a closed form, and RK4 comes within dt of it."""
    steps, T = 400, 2.0
    problem = ws.control.Problem(
        dynamics=lambda x, u, t: rate * x + u,
        running_cost=lambda x, u, t: 0.5 * (x.square() + u.square()).sum(-1),
        initial_state=torch.ones(1, dtype=DOUBLE),
        control_size=1,
        steps=steps,
        dt=T / steps,
    )
    sol = ws.control.solve(problem)
    root = sqrt(rate**2 + 1)
    exact = sinh(root * T) / (root * cosh(root * T) - rate * sinh(root * T))
    assert float(sol.costates[0, 0]) == pytest.approx(exact, rel=1e-4)
    assert float(sol.cost) == pytest.approx(exact / 2, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 400])
def test_the_scalar_wave_reaches_the_same_fields(steps: int) -> None:
    problem = double_integrator(steps)
    matched = ws.control.solve(problem)
    sol = ws.control.solve(problem, ws.Wave(impedance=1.0, speed=0.9), tol=1e-5)
    assert sol.outcome.converged
    for name in ("states", "costates", "controls"):
        close(getattr(sol, name), getattr(matched, name), 1e-3)


@pytest.mark.parametrize(("steps", "converges"), [(20, True), (400, False)])
def test_direct_coupling_diverges_on_long_horizons_where_the_wave_converges(steps: int, converges: bool) -> None:
    problem = double_integrator(steps)
    swept = ws.control.solve(problem, ws.control.ForwardBackwardSweep(0.5), max_ticks=60)
    wave = ws.control.solve(problem, ws.Wave(impedance=1.0, speed=0.9), tol=1e-4, max_ticks=400)
    assert wave.outcome.converged
    assert swept.outcome.converged is converges
    if not converges:
        assert swept.outcome.status is ws.Status.DIVERGED
        assert "Riccati" in swept.outcome.remedy


def test_least_time_for_a_mass_is_two_with_one_switch_in_the_middle() -> None:
    problem = ws.control.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
        running_cost=lambda x, u, t: 1 + 0 * x[..., 0],
        terminal_constraint=lambda x: x,
        initial_state=torch.tensor([[1.0, 0.0], [0.25, 0.0], [0.5, -0.3]], dtype=DOUBLE),
        control_size=1,
        steps=40,
        duration=ws.control.FreeDuration(2.0),
        bounds=(-1.0, 1.0),
    )
    sol = ws.control.solve(problem)
    assert sol.converged.all()
    # From (p, v): T = v + 2√(p + v²/2); a switch within a stage costs the stage some of its control
    times = [2.0, 1.0, -0.3 + 2 * sqrt(0.545)]
    assert sol.duration.tolist() == pytest.approx(times, rel=1e-3)
    assert sol.duration[0] == pytest.approx(2.0, abs=1e-6)  # the switch falls between two stages
    assert sol.controls[0, :20].max() < -1 + 1e-5
    assert sol.controls[0, 20:].min() > 1 - 1e-5
    assert float(sol.states[:, -1].abs().max()) < 1e-7


def test_a_flow_without_control_is_the_initial_value_problem_and_its_adjoint() -> None:
    problem = ws.control.Problem(
        dynamics=lambda x, u, t: -2 * x,
        running_cost=lambda x, u, t: 0 * x[..., 0],
        terminal_cost=lambda x: 3 * x[..., 0],
        initial_state=torch.tensor([1.0], dtype=DOUBLE),
        control_size=0,
        steps=50,
        dt=0.02,
    )
    sol = ws.control.solve(problem)
    assert float(sol.states[-1, 0]) == pytest.approx(exp(-2), rel=1e-7)
    assert float(sol.costates[0, 0]) == pytest.approx(3 * exp(-2), rel=1e-7)
    assert sol.controls.shape == (50, 0)

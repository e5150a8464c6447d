"""Why an optimal control problem is not solved is told where the problem itself is the reason."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from plants import DOUBLE
from worldsheet.core.outcome import Status

C = ws.control


def two(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), -1)


def mass(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
    return two(x[..., 1], u[..., 0])


def falling(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
    return two(-1000 * (x[..., 0] - x[..., 1] ** 3), u[..., 0] - x[..., 1])


def squares(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
    return x.square().sum(-1) + 0.1 * u[..., 0].square()


def problem(**changes: object) -> ws.control.Problem:
    plain: dict[str, object] = {
        "dynamics": mass,
        "running_cost": squares,
        "control_size": 1,
        "steps": 40,
        "dt": 0.1,
        "initial_state": torch.tensor([1.0, 0.0], dtype=DOUBLE),
    }
    made: Callable[..., ws.control.Problem] = C.Problem
    return made(**{**plain, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    "cost",
    [
        lambda x, u, t: x[..., 0].square() + 0.3 * u[..., 0].abs(),
        lambda x, u, t: x[..., 0].square() + 10 * (-x[..., 1] - 0.3).clamp(min=0) + 0.1 * u[..., 0].square(),
    ],
    ids=["absolute value", "hinge"],
)
def test_kinks_are_told(cost: Callable[..., Tensor]) -> None:
    outcome = C.solve(problem(running_cost=cost, bounds=(-1.0, 1.0))).outcome
    assert not outcome.converged
    assert "kinks" in outcome.remedy
    assert "softplus" in outcome.remedy


@pytest.mark.slow
def test_a_network_of_rectifiers_has_kinks() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).double()

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return 0.5 * wide(torch.cat((x, u), -1)) + mass(x, u, t)

    assert "kinks" in C.solve(problem(dynamics=dynamics, bounds=(-2.0, 2.0), dt=0.05)).outcome.remedy


def test_a_cost_without_limit_is_told() -> None:
    outcome = C.solve(problem(running_cost=lambda x, u, t: -x[..., 0].square())).outcome
    assert outcome.status is Status.DIVERGED
    assert "without limit" in outcome.remedy


def test_an_unstable_integrator_is_told_and_its_remedy_works() -> None:
    stiff = problem(dynamics=falling, bounds=(-1.0, 1.0))
    outcome = C.solve(stiff).outcome
    assert outcome.status is Status.DIVERGED
    assert "unstable" in outcome.remedy
    for integrator in (C.RadauIIA(), C.ImplicitMidpoint()):
        assert f"{type(integrator).__name__}()" in outcome.remedy
        assert C.solve(problem(dynamics=falling, bounds=(-1.0, 1.0), integrator=integrator)).outcome.converged


def test_equations_that_are_not_solved_are_told_and_the_remedy_works() -> None:
    def blunt(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return two(-3e7 * x[..., 0] ** 2 + 0.04 * (1 + u[..., 0] ** 2), x[..., 0] - x[..., 1])

    start = torch.zeros(2, dtype=DOUBLE)
    outcome = C.solve(problem(dynamics=blunt, initial_state=start, integrator=C.RadauIIA(iterations=3))).outcome
    assert outcome.status is Status.DIVERGED
    assert "more iterations" in outcome.remedy
    assert C.solve(problem(dynamics=blunt, initial_state=start, integrator=C.RadauIIA())).outcome.converged


def test_smooth_problems_that_ran_out_of_ticks_are_not_blamed() -> None:
    for changes in ({}, {"bounds": (-0.2, 0.2)}, {"terminal_constraint": lambda x: x}):
        outcome = C.solve(problem(**changes), max_ticks=0).outcome
        assert outcome.status is Status.BUDGET_SPENT
        assert not any(word in outcome.remedy for word in ("kinks", "unstable", "without limit"))

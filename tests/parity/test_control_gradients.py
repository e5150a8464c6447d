"""Gradients of optimal costs against finite differences, wherever a parameter enters: by all multipliers (27)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from worldsheet.control import FreeDuration, Problem, solve

Make = Callable[[Tensor], Problem]

TOL = 1e-9
START = torch.tensor([1.0, 0.0], dtype=torch.float64)


def pendulum(strength: Tensor | float) -> Callable[..., Tensor]:
    def dynamics(x: Tensor, u: Tensor, t: Tensor, *more: Tensor) -> Tensor:
        return torch.stack([x[..., 1], u[..., 0] - strength * x[..., 0].sin()], -1)

    return dynamics


def cost(x: Tensor, u: Tensor, t: Tensor, *more: Tensor) -> Tensor:
    return x.square().sum(-1) + 0.1 * u[..., 0] ** 2


def posed(**changes: Any) -> Problem:
    base: dict[str, Any] = {"dynamics": pendulum(2.0), "running_cost": cost, "initial_state": START}
    return Problem(**{**base, "control_size": 1, "steps": 30, "dt": 0.1, **changes})


def parametric(x: Tensor, u: Tensor, t: Tensor, p: Tensor) -> Tensor:
    return torch.stack([x[..., 1], u[..., 0] - p[..., 0] * x[..., 0].sin()], -1)


def timed(theta: Tensor) -> Problem:
    free = {"duration": FreeDuration(2.0), "terminal_constraint": lambda x: x, "dt": 1.0}
    return posed(dynamics=pendulum(theta), running_cost=lambda x, u, t: 1 + 0.1 * u[..., 0] ** 2, **free)


KINDS: dict[str, tuple[Make, float]] = {
    "dynamics": (lambda p: posed(dynamics=pendulum(p)), 2.0),
    "running cost": (lambda p: posed(running_cost=lambda x, u, t: cost(x, u, t) * p), 0.7),
    "terminal cost": (lambda p: posed(terminal_cost=lambda x: p * (x - 0.5).square().sum(-1)), 3.0),
    "parameters": (lambda p: posed(dynamics=parametric, parameters=p.reshape(1)), 2.0),
    "initial state": (lambda p: posed(initial_state=torch.stack([p, 0 * p])), 1.0),
    "path constraint": (lambda p: posed(path_constraint=lambda x, u, t: -x[..., 1:] - p), 0.3),
    "dynamics and path constraint": (
        lambda p: posed(dynamics=pendulum(p), path_constraint=lambda x, u, t: -x[..., 1:] - 0.15 * p),
        2.0,
    ),
    "terminal constraint": (lambda p: posed(terminal_constraint=lambda x: x[..., :1] - 0.15 * p), 2.0),
    "upper bound": (lambda p: posed(dynamics=pendulum(-2.0), bounds=(-p, p)), 1.5),
    "free duration": (timed, 0.5),
}


def slope(make: Make, at: Tensor, step: float = 1e-4) -> Tensor:
    """By central differences of the optimal cost."""
    ends = [solve(make(at + sign * step), tol=TOL) for sign in (1, -1)]
    assert all(bool(end.converged.all()) for end in ends)
    return (ends[0].cost.sum() - ends[1].cost.sum()) / (2 * step)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_optimal_cost(kind: str) -> None:
    make, value = KINDS[kind]
    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    found = solve(make(leaf), tol=TOL).gradients({"p": leaf})["p"]
    wanted = slope(make, leaf.detach())
    assert float(wanted.abs()) > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_batch_sums_over_its_problems_and_each_has_its_own_parameters() -> None:
    starts = torch.tensor([[1.0, 0.0], [0.5, -0.3], [-1.2, 0.4]], dtype=torch.float64)
    own = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    limit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def make(own: Tensor, limit: Tensor) -> Problem:
        path = {"path_constraint": lambda x, u, t, p: x[..., 1:].abs() - limit - 0.3}
        return posed(dynamics=parametric, parameters=own, initial_state=starts, **path)

    found = solve(make(own, limit), tol=TOL).gradients({"own": own, "limit": limit})
    torch.testing.assert_close(
        found["limit"], slope(lambda p: make(own.detach(), p), limit.detach()), rtol=1e-4, atol=1e-6
    )
    for row in range(3):
        step = torch.zeros_like(own).index_fill_(0, torch.tensor([row]), 1.0)
        wanted = slope(lambda p, step=step: make(own.detach() + p * step, limit.detach()), torch.zeros(()).double())
        torch.testing.assert_close(found["own"][row, 0], wanted, rtol=1e-4, atol=1e-6)


def test_multipliers_are_what_loosening_a_constraint_is_worth() -> None:
    sol = solve(posed(path_constraint=lambda x, u, t: -x[..., 1:] - 0.3, bounds=(-5.0, 5.0)), tol=TOL)
    assert sol.multipliers is not None
    assert sol.multipliers.inequality.shape == (30, 3)  # the path's, then the upper and the lower bound's
    assert float(sol.multipliers.inequality.min()) >= 0
    limit = torch.tensor(0.3, dtype=torch.float64)
    path = -slope(lambda p: posed(path_constraint=lambda x, u, t: -x[..., 1:] - p, bounds=(-5.0, 5.0)), limit)
    torch.testing.assert_close(sol.multipliers.inequality[:, 0].sum(), path, rtol=1e-4, atol=1e-6)


def test_what_plays_no_part_is_left_out() -> None:
    idle = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert solve(posed()).gradients({"idle": idle}) == {}


def test_problems_that_are_not_solved_have_no_gradient_of_the_cost() -> None:
    leaf = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    sol = solve(posed(dynamics=pendulum(leaf)), max_ticks=1)
    with pytest.raises(ws.errors.InputError, match="1 did not converge"):
        sol.gradients({"p": leaf})


def test_bounds_that_depend_on_a_parameter_need_multipliers() -> None:
    leaf = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    gentle = {"dynamics": lambda x, u, t: torch.stack([-x[..., 0], u[..., 0] - x[..., 1]], -1), "steps": 5}
    sol = solve(posed(bounds=(-leaf, leaf), **gentle), ws.control.ForwardBackwardSweep(0.3), tol=1e-6)
    assert sol.outcome.converged
    with pytest.raises(ws.errors.InputError, match="without multipliers"):
        sol.gradients({"p": leaf})

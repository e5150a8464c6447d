"""Gradients of optimal costs against finite differences, wherever a parameter enters: by all multipliers (27)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from worldsheet.control import FreeDuration, Problem, Trajectory, solve
from worldsheet_lab.control.problems import KNOWN

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
    "path constraint": (lambda p: posed(path_constraint=lambda x, u, t: -x[..., 1:] - p), 0.27),
    "dynamics and path constraint": (
        lambda p: posed(dynamics=pendulum(p), path_constraint=lambda x, u, t: -x[..., 1:] - 0.135 * p),
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


def looked_at(problem: Problem, seed: int = 0) -> Tensor:
    """Some function of all of a solution."""
    sol = solve(problem, tol=TOL)
    assert bool(sol.converged.all())
    return weighed(sol, seed)


def weighed(sol: Trajectory, seed: int = 0) -> Tensor:
    """A random sum of a solution's trajectories, its cost and its duration."""
    draw = torch.Generator().manual_seed(seed)
    fields = (sol.states, sol.controls, sol.cost, sol.duration, sol.times)
    sums = [(torch.randn(field.shape, generator=draw, dtype=field.dtype) * field).sum() for field in fields]
    return torch.stack(sums).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_trajectories_move_with_what_the_problem_reads(kind: str) -> None:
    make, value = KINDS[kind]
    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(looked_at(make(leaf)), leaf)
    with torch.no_grad():
        step = 1e-4
        wanted = (looked_at(make(leaf + step)) - looked_at(make(leaf - step))) / (2 * step)
    assert float(wanted.abs()) > 1e-3
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-5)


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

    def moved(step: Tensor, p: Tensor) -> Problem:
        return make(own.detach() + p * step, limit.detach())

    for row in range(3):
        step = torch.zeros_like(own).index_fill_(0, torch.tensor([row]), 1.0)
        wanted = slope(partial(moved, step), torch.zeros(()).double())
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
    with pytest.raises(ws.errors.InputError, match="1 of 1 problems did not converge"):
        sol.gradients({"p": leaf})


def test_bounds_that_depend_on_a_parameter_need_multipliers() -> None:
    leaf = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    gentle = {"dynamics": lambda x, u, t: torch.stack([-x[..., 0], u[..., 0] - x[..., 1]], -1), "steps": 5}
    sol = solve(posed(bounds=(-leaf, leaf), **gentle), ws.control.ForwardBackwardSweep(0.3), tol=1e-6)
    assert sol.outcome.converged
    with pytest.raises(ws.errors.InputError, match="this method has no multipliers"):
        sol.gradients({"p": leaf})


def test_the_first_control_moves_with_the_state_as_the_gain_says() -> None:
    start = START.clone().requires_grad_()
    sol = solve(posed(initial_state=start), tol=1e-10)
    (slope_,) = torch.autograd.grad(sol.controls[0].sum(), start)
    assert sol.gains is not None
    torch.testing.assert_close(slope_, sol.gains[0, 0], rtol=1e-7, atol=1e-9)
    (worth,) = torch.autograd.grad(solve(posed(initial_state=start), tol=1e-10).cost, start)
    torch.testing.assert_close(worth, sol.costates[0], rtol=1e-7, atol=1e-9)


def test_a_linear_problem_passes_gradcheck_as_a_batch() -> None:
    torch.manual_seed(0)
    starts = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64, requires_grad=True)
    price = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def of(starts: Tensor, matrix: Tensor, price: Tensor) -> tuple[Tensor, ...]:
        sol = solve(
            Problem(
                dynamics=lambda x, u, t: x @ matrix.T + torch.stack([0 * u[..., 0], u[..., 0]], -1),
                running_cost=lambda x, u, t: x.square().sum(-1) + price * u[..., 0] ** 2,
                initial_state=starts,
                control_size=1,
                steps=6,
                integrator=ws.control.Discrete(),
            ),
            tol=1e-12,
        )
        return sol.states, sol.controls, sol.cost

    assert torch.autograd.gradcheck(of, (starts, matrix, price), atol=1e-6)


def test_a_module_in_the_dynamics_learns_through_the_solution() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 1).double()

    def made() -> Problem:
        def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
            return torch.stack([x[..., 1], u[..., 0] + 0.1 * net(x).tanh()[..., 0]], -1)

        return posed(dynamics=dynamics, bounds=(-0.6, 0.6))

    looked_at(made()).backward()
    found = [parameter.grad for parameter in net.parameters()]
    for parameter, gradient in zip(net.parameters(), found, strict=True):
        direction, step = torch.randn_like(parameter), 1e-4
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
                values.append(looked_at(made()))
                parameter.add_(direction, alpha=-sign * step)
        assert gradient is not None
        wanted = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), wanted, rtol=5e-3, atol=1e-5)


def test_nothing_is_attached_where_nothing_requires_grad_or_none_is_wanted() -> None:
    assert not solve(posed()).states.requires_grad
    with torch.no_grad():
        assert not solve(posed(initial_state=START.clone().requires_grad_())).controls.requires_grad


def test_a_problem_that_failed_carries_no_gradient_and_says_so() -> None:
    starts = torch.tensor([[1.0, 0.0], [torch.nan, 0.0]], dtype=torch.float64, requires_grad=True)
    sol = solve(posed(initial_state=starts))
    assert sol.converged.tolist() == [True, False]
    with pytest.warns(UserWarning, match="1 of 2 problems did not converge"):
        sol.controls.nan_to_num().sum().backward()


@pytest.mark.parametrize("field", ["controls", "cost"])
def test_a_second_derivative_is_refused(field: str) -> None:
    leaf = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    value = getattr(solve(posed(dynamics=pendulum(leaf))), field).sum()
    with pytest.raises(ws.errors.InputError, match="second derivatives"):
        torch.autograd.grad(value, leaf, create_graph=True)


@pytest.mark.parametrize(
    "integrator", [ws.control.RK4(), ws.control.ImplicitMidpoint(), ws.control.RadauIIA()], ids=str
)
def test_integrators_are_differentiated_through(integrator: ws.control.Integrator) -> None:
    assert not solve(posed(integrator=integrator)).states.requires_grad
    leaf = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def at(value: Tensor) -> Tensor:
        return looked_at(posed(dynamics=pendulum(value), integrator=integrator))

    (found,) = torch.autograd.grad(at(leaf), leaf)
    with torch.no_grad():
        wanted = (at(leaf + 1e-4) - at(leaf - 1e-4)) / 2e-4
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


KNOWN_STARTS = {
    "vanderpol": (0.0, 1.0),
    "bangbang": (1.0, 0.05),
    "obstacle": (0.0, 0.0, 0.0, 0.0),
    "cartpole": (0.0, 0.0, 0.0, 0.0),
}
"""None of them, as the textbook's start of the bang-bang problem would be, where two controls could leave a bound."""


@pytest.mark.parametrize("name", KNOWN_STARTS)
def test_solutions_of_known_problems_move_with_where_they_start(name: str) -> None:
    known = KNOWN[name]
    start = torch.tensor(KNOWN_STARTS[name], dtype=torch.float64, requires_grad=True)
    problem = known.build(start)
    sol = solve(problem, initial_guess=known.guess(problem), tol=TOL)
    assert sol.outcome.converged
    (found,) = torch.autograd.grad(weighed(sol), start)
    with torch.no_grad():
        direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
        sides = [solve(known.build(start + side * direction), initial_guess=sol, tol=TOL) for side in (1e-5, -1e-5)]
        assert all(side.outcome.converged for side in sides)
        wanted = (weighed(sides[0]) - weighed(sides[1])) / 2e-5
    torch.testing.assert_close((found * direction).sum(), wanted, rtol=5e-4, atol=1e-5)


def test_least_time_moves_its_controls_as_they_add_up() -> None:
    start = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    problem = KNOWN["bangbang"].build(start)
    sol = solve(problem, initial_guess=KNOWN["bangbang"].guess(problem), tol=TOL)
    (time,) = torch.autograd.grad(sol.duration, start, retain_graph=True)
    torch.testing.assert_close(time, torch.ones_like(time), rtol=1e-6, atol=1e-6)  # of v + 2 sqrt(x + v²/2)
    (total,) = torch.autograd.grad(sol.controls.sum(), start)
    wanted = torch.tensor([0.0, -problem.steps / 2.0], dtype=torch.float64)  # Σ u T/N = −v, with T = 2
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=1e-6)


def test_controls_that_cost_nothing_have_no_derivative_and_it_is_said() -> None:
    start = START.clone().requires_grad_()
    sol = solve(posed(initial_state=start, running_cost=lambda x, u, t: 0 * u[..., 0]))
    assert sol.outcome.converged
    with pytest.warns(UserWarning, match="1 of 1 problems ended where there is no derivative"):
        sol.controls.sum().backward()
    assert start.grad is not None
    assert start.grad.tolist() == [0.0, 0.0]

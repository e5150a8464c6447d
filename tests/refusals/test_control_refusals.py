"""What a control problem refuses, by the name of the culprit, and what comes back as an outcome."""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch

import worldsheet as ws
from nets import assert_tells
from plants import DOUBLE, close, double_integrator, pendulum

START = torch.tensor([0.3, 0.0], dtype=DOUBLE)
GOOD: dict[str, Any] = {
    "dynamics": lambda x, u, t: torch.cat((x[..., 1:], u), -1),
    "running_cost": lambda x, u, t: x.square().sum(-1) + u.square().sum(-1),
    "terminal_cost": lambda x: x.square().sum(-1),
    "initial_state": START,
    "control_size": 1,
    "steps": 5,
    "dt": 0.1,
}


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"steps": 0}, ["steps must be at least 1, got 0", "one stage or more"]),
        ({"dt": 0.0}, ["dt must be positive and finite, got 0.0", "duration / steps"]),
        ({"dt": nan}, ["dt must be positive and finite, got nan"]),
        ({"control_size": -1}, ["control_size must not be negative, got -1"]),
        ({"initial_state": torch.tensor([nan, 0.0])}, ["NaN or infinite", "where it comes from"]),
        ({"initial_state": torch.tensor([1, 0])}, ["initial_state must be a tensor of real numbers", "torch.int64"]),
        ({"initial_state": torch.zeros(0, 2)}, ["(0, 2)", "empty"]),
        ({"bounds": (1.0, -1.0)}, ["lower bound of control 0 must not be above", "got 1.0 and -1.0"]),
        ({"bounds": (nan, 1.0)}, ["lower bound of control 0", "got nan and 1.0"]),
        ({"bounds": ([0.0, 0.0], 1.0)}, ["bounds must be a lower and an upper bound", "of shape (1,)"]),
        ({"dynamics": lambda x, u, t: x[..., 0]}, ["dynamics returned shape (2, 1) instead of (2, 1, 2)"]),
        ({"dynamics": lambda x, u, t: x[0]}, ["dynamics returned shape (1, 2)"]),
        ({"dynamics": lambda x, u, t: x @ u}, ["dynamics failed", "RuntimeError", "batched tensors"]),
        ({"dynamics": lambda x, u, t: 3.0}, ["dynamics returned an object of type float, not a tensor"]),
        ({"dynamics": lambda x, u, t: x.float()}, ["dynamics returned torch.float32", "torch.float64"]),
        ({"running_cost": lambda x, u, t: x.square()}, ["running_cost returned shape (2, 1, 2)", "shape (2, 1)"]),
        ({"running_cost": lambda x, u, t: x.detach().square().sum(-1)}, ["running_cost", "no derivative", ".detach()"]),
        ({"terminal_cost": lambda x: x.sum(-1).round().detach()}, ["terminal_cost", "no derivative", "rounding"]),
        ({"path_constraint": lambda x, u, t: x[..., 0]}, ["path_constraint returned shape", "(2, 1, any)"]),
        ({"terminal_constraint": lambda x: x.sum()}, ["terminal_constraint returned shape ()", "(2, 1, any)"]),
        ({"parameters": torch.zeros(3, 2)}, ["parameters must have one row for each problem", "(3, 2)"]),
        (
            {"integrator": ws.control.Discrete(), "duration": ws.control.FreeDuration(1.0)},
            ["in discrete time cannot have a free duration", "RK4()"],
        ),
    ],
)
def test_a_problem_names_what_is_wrong_with_it(change: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.control.Problem(**{**GOOD, **change})
    assert_tells(refusal.value, *fragments)


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (lambda: ws.control.FreeDuration(0.0), ["FreeDuration: guess must be positive and finite, got 0.0"]),
        (lambda: ws.control.FreeDuration(inf), ["FreeDuration: guess must be positive and finite, got inf"]),
        (lambda: ws.control.ForwardBackwardSweep(0.0), ["relaxation must be above 0 and at most 1, got 0.0"]),
        (lambda: ws.control.ForwardBackwardSweep(1.5), ["ForwardBackwardSweep: relaxation must be", "got 1.5"]),
        (lambda: ws.control.ImplicitMidpoint(0), ["ImplicitMidpoint: iterations must be at least 1, got 0"]),
        (lambda: ws.control.RadauIIA(4), ["RadauIIA: stages must be 1, 2 or 3, got 4", "RadauIIA()"]),
        (lambda: ws.control.RadauIIA(iterations=0), ["RadauIIA: iterations must be at least 1, got 0"]),
        (lambda: ws.control.History(every=0), ["every=0"]),
        (lambda: ws.control.History(element=-1), ["element=-1"]),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make: Callable[[], Any], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        make()
    assert_tells(refusal.value, *fragments)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"tol": 0.0}, ["tol must be a positive number, got 0.0", "1e-8"]),
        ({"tol": nan}, ["tol must be a positive number, got nan"]),
        ({"max_ticks": -1}, ["max_ticks must not be negative, got -1"]),
        ({"initial_guess": torch.zeros(4, 1, dtype=DOUBLE)}, ["guess of the controls has shape (4, 1)", "(20, 1)"]),
        ({"initial_guess": ws.control.Guess(states=torch.zeros(20, 2))}, ["guess of the states", "(21, 2)"]),
    ],
)
def test_solve_refuses_what_does_not_fit(options: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.control.solve(double_integrator(20), **options)
    assert_tells(refusal.value, *fragments)


@pytest.mark.parametrize("method", [ws.Wave(impedance=0.5), ws.control.ForwardBackwardSweep()])
@pytest.mark.parametrize(
    "extra",
    [
        {"path_constraint": lambda x, u, t: x - 1},
        {"terminal_constraint": lambda x: x},
        {"duration": ws.control.FreeDuration(1.0)},
    ],
)
def test_first_order_methods_say_which_constraint_they_cannot_take(method: Any, extra: dict[str, Any]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.control.solve(ws.control.Problem(**{**GOOD, **extra}), method)
    assert_tells(refusal.value, *extra, "Riccati()")


@pytest.mark.parametrize(
    "method",
    [ws.Wave(impedance=ws.dynamics.Riccati()), ws.Wave(impedance=1.0, speed=0.9), ws.control.ForwardBackwardSweep(0.3)],
)
def test_one_bad_element_never_spoils_the_batch(method: Any) -> None:
    starts = torch.tensor([[0.3, 0.0], [nan, 0.0], [-0.2, 0.4], [0.1, inf]], dtype=DOUBLE)
    whole = ws.control.solve(double_integrator(5, batch=starts), method, tol=1e-3)
    good = ws.control.solve(double_integrator(5, batch=starts[[0, 2]]), method, tol=1e-3)
    assert whole.converged.tolist() == [True, False, True, False]
    close(whole.states[[0, 2]], good.states, 1e-12)
    close(whole.costates[[0, 2]], good.costates, 1e-12)
    assert whole.outcomes[1].status is ws.Status.DIVERGED
    assert "NaN or infinite" in whole.outcomes[3].remedy
    assert "2 of 4 problems converged" in whole.outcome.remedy


def test_constraints_that_cannot_be_met_are_an_outcome() -> None:
    problem = ws.control.Problem(**{**GOOD, "bounds": (-0.1, 0.1), "terminal_constraint": lambda x: x - 5})
    sol = ws.control.solve(problem, max_ticks=60)
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
    assert "constraints cannot be met" in sol.outcome.remedy
    assert float(sol.residuals.constraint + sol.residuals.dynamics) > 0.1


def test_an_unstable_step_is_an_outcome_with_a_remedy() -> None:
    sol = ws.control.solve(double_integrator(20), ws.Wave(impedance=0.3, speed=3.0, limit=float("inf")), max_ticks=2000)
    assert sol.outcome.status is ws.Status.DIVERGED
    assert "smaller" in sol.outcome.remedy


def test_a_hamiltonian_without_minimum_is_an_outcome() -> None:
    problem = ws.control.Problem(**{**GOOD, "running_cost": lambda x, u, t: x.square().sum(-1) - u.square().sum(-1)})
    sol = ws.control.solve(problem, max_ticks=40)
    assert not sol.outcome.converged
    assert sol.outcome.remedy


def test_a_spent_budget_says_so() -> None:
    sol = ws.control.solve(pendulum(START), max_ticks=1)
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
    assert "max_ticks" in sol.outcome.remedy


def test_functions_that_cannot_be_compiled_are_refused_with_a_reason() -> None:
    def jumping(x: torch.Tensor, u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat((x[..., 1:], u), -1) if bool((x >= -1e9).all()) else x

    problem = ws.control.Problem(**{**GOOD, "dynamics": jumping, "execution": ws.control.Compiled()})
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.control.solve(problem)
    assert_tells(refusal.value, "cannot be compiled", "torch.where", "leave Compiled() out")


def test_compiled_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.control.Compiled().recursion(START, (2, 1))
    assert_tells(refusal.value, "needs a C compiler, and none was found", "cc, gcc, clang", "install gcc")


def test_compiled_has_no_code_for_half_precision() -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.control.Compiled().recursion(START.half(), (2, 1))
    assert_tells(refusal.value, "does not support torch.float16", "float64 or float32")


@pytest.mark.parametrize(
    "transform",
    [
        torch.func.grad,
        torch.func.jacrev,
        lambda f: lambda p: torch.func.vmap(f)(p[None]),
    ],
    ids=["grad", "jacrev", "vmap"],
)
def test_transforms_are_refused_with_what_to_do_instead(transform: Any) -> None:
    def cost(price: torch.Tensor) -> torch.Tensor:
        problem = ws.control.Problem(
            dynamics=lambda x, u, t: torch.stack([x[..., 1], u[..., 0]], -1),
            running_cost=lambda x, u, t: price * x.square().sum(-1) + u[..., 0] ** 2,
            initial_state=torch.tensor([1.0, 0.0], dtype=torch.float64),
            control_size=1,
            steps=5,
            dt=0.1,
        )
        return ws.control.solve(problem).cost

    with pytest.raises(ws.errors.InputError) as caught:
        transform(cost)(torch.tensor(1.0, dtype=torch.float64))
    assert_tells(caught.value, "transforms of torch.func", "torch.autograd.grad", "vmap")

"""A start from an earlier solution, multipliers and all: the solution of a start from nothing, in fewer ticks."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from nets import assert_tells
from plants import DOUBLE, bounded, close, double_integrator, pendulum
from worldsheet.control.compiled import compiling

C = ws.control
needs_c = pytest.mark.skipif(all(shutil.which(name) is None for name in ("cc", "gcc", "clang")), reason="no C compiler")
STARTS = torch.tensor([[0.8, 0.0], [-1.0, 0.5], [2.0, -1.0], [0.1, 0.2], [-2.2, 0.0], [3.0, 0.0]], dtype=DOUBLE)


def along_a_wall(start: Tensor) -> C.Problem:
    """A mass that wants to be behind a wall at 0, which limits it from the second instant on."""
    return C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
        running_cost=lambda x, u, t: (x[..., 0] - 0.5) ** 2 + 0.1 * x[..., 1] ** 2 + 0.01 * u[..., 0] ** 2,
        initial_state=start,
        control_size=1,
        steps=25,
        dt=0.1,
        bounds=(-2.0, 2.0),
        path_constraint=lambda x, u, t: torch.where(t[..., None] > 0.05, x[..., :1], -1.0),
    )


def to_rest(start: Tensor) -> C.Problem:
    """A mass that has to be at rest at 0 in the end."""
    return C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0] - x[..., 0].sin()), -1),
        running_cost=lambda x, u, t: x.square().sum(-1) + 0.1 * u[..., 0] ** 2,
        terminal_constraint=lambda x: x,
        initial_state=start,
        control_size=1,
        steps=30,
        dt=0.1,
        bounds=(-0.9, 1.1),
        path_constraint=lambda x, u, t: -x[..., 1:] - 0.5,
    )


PROBLEMS = [
    pytest.param(pendulum(STARTS, bounds=(-3.0, 2.0)), id="pendulums"),
    pytest.param(pendulum(STARTS.repeat(3, 1), 8, bounds=(-3.0, 2.0)), id="many"),
    pytest.param(bounded(double_integrator(30)), id="mass"),
    pytest.param(along_a_wall(torch.tensor([-0.2, 0.1], dtype=DOUBLE)), id="wall"),
    pytest.param(to_rest(torch.tensor([1.0, 0.0], dtype=DOUBLE)), id="rest"),
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_solution_solves_its_own_problem_at_once(problem: C.Problem) -> None:
    sol = C.solve(problem)
    again = C.solve(problem, initial_guess=sol)
    assert sol.converged.all()
    assert again.converged.all()
    assert int(again.ticks.max()) <= 1
    assert sol.multipliers is not None
    assert again.multipliers is not None
    close(again.multipliers.inequality, sol.multipliers.inequality, 1e-7)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_nearby_is_solved_in_half_the_ticks_to_the_same_end(problem: C.Problem) -> None:
    before = C.solve(problem)
    generator = torch.Generator().manual_seed(1)
    noise = 0.01 * torch.randn(problem.initial_state.shape, dtype=DOUBLE, generator=generator)
    moved = problem.at(problem.initial_state + noise)
    warm, cold = C.solve(moved, initial_guess=before), C.solve(moved)
    assert warm.converged.all()
    assert bool((2 * warm.ticks <= cold.ticks).all()), f"{warm.ticks.tolist()} of {cold.ticks.tolist()}"
    close(warm.cost, cold.cost, 1e-7)
    close(warm.states, cold.states, 1e-5)
    close(warm.controls, cold.controls, 1e-3)


def test_a_solver_solves_with_what_it_is_given_what_a_problem_built_so_does() -> None:
    def build(start: Tensor, mass: Tensor, time: float) -> C.Problem:
        return C.Problem(
            dynamics=lambda x, u, t, p: torch.stack((x[..., 1], u[..., 0] / p[..., 0]), -1),
            running_cost=lambda x, u, t, p: (1 + t) * x.square().sum(-1) + u.square().sum(-1),
            initial_state=start,
            initial_time=time,
            control_size=1,
            steps=10,
            dt=0.1,
            bounds=(-0.7, 0.7),
            parameters=mass,
        )

    masses = 1 + torch.arange(6, dtype=DOUBLE)[:, None]
    solver = C.Solver(build(STARTS, masses, 0.0))
    first = solver.solve()
    other = solver.solve(first, initial_state=-STARTS, initial_time=0.4, parameters=masses.flip(0))
    close(other.states, C.solve(build(-STARTS, masses.flip(0), 0.4)).states, 1e-5)
    assert torch.equal(solver.solve().states, first.states)


def test_single_precision_starts_as_warm() -> None:
    single = C.Problem(**{**vars(pendulum(STARTS.float(), bounds=(-3.0, 2.0)))})
    before = C.solve(single, tol=1e-4)
    warm = C.solve(single.at(0.99 * STARTS.float()), initial_guess=before, tol=1e-4)
    double = C.solve(pendulum(0.99 * STARTS, bounds=(-3.0, 2.0)))
    assert before.converged.all()
    assert warm.converged.all()
    assert int(warm.ticks.max()) <= 5
    close(warm.cost, double.cost.float(), 1e-3)


@pytest.mark.parametrize("by", [C.Eager(), pytest.param(C.Compiled(), marks=needs_c)], ids=["eager", "compiled"])
def test_multipliers_that_mislead_do_not_mislead_for_long(by: C.Execution) -> None:
    problem = replace(pendulum(STARTS, bounds=(-3.0, 2.0)), execution=by)
    cold = C.solve(problem)
    generator = torch.Generator().manual_seed(0)
    wrong = C.Multipliers(30 * torch.rand(6, 20, 2, dtype=DOUBLE, generator=generator), torch.zeros(6, 0))
    controls = 3 * torch.randn(6, 20, 1, dtype=DOUBLE, generator=generator)
    guess = C.Guess(controls=controls, multipliers=wrong)
    found = C.solve(problem, initial_guess=guess)
    assert found.converged.all()
    close(found.cost, cold.cost, 1e-6)
    watched = C.solve(problem, initial_guess=guess, history=C.History())  # one tick after the other
    assert found.ticks.tolist() == watched.ticks.tolist()
    close(found.states, watched.states, 1e-9)


@pytest.mark.parametrize("name", ["states", "controls", "cost"])
def test_gradients_through_a_warm_start_are_those_through_a_cold_one(name: str) -> None:
    gradients = []
    for warm in (True, False):
        price = torch.tensor(0.05, dtype=DOUBLE, requires_grad=True)
        plain = pendulum(STARTS, bounds=(-3.0, 2.0))
        problem = C.Problem(
            **{**vars(plain), "running_cost": lambda x, u, t, p=price: x.square().sum(-1) + p * u[..., 0] ** 2}
        )
        near = C.solve(problem.at(STARTS + 0.01), tol=1e-9)
        sol = C.solve(problem, initial_guess=near if warm else None, tol=1e-9)
        weight = torch.linspace(-1, 2, sol.states.shape[1], dtype=DOUBLE)[: getattr(sol, name).shape[1:2].numel()]
        value = getattr(sol, name)
        value = value.sum() if name == "cost" else (weight[:, None] * value).sum()
        gradients.append(torch.autograd.grad(value, price)[0])
    close(gradients[0], gradients[1], 1e-5)


@pytest.mark.slow
@needs_c
def test_machine_code_starts_as_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in it needs the slow generator, which would double the time of the first step of a controller."""
    monkeypatch.delattr(compiling, "_generated")
    problem = pendulum(STARTS, bounds=(-3.0, 2.0))
    compiled = C.Problem(**{**vars(problem), "execution": C.Compiled()})
    before = C.solve(problem)
    mine, theirs = (C.solve(each.at(0.99 * STARTS), initial_guess=before) for each in (compiled, problem))
    assert mine.converged.all()
    assert mine.ticks.tolist() == theirs.ticks.tolist()
    close(mine.states, theirs.states, 1e-7)


def test_multipliers_of_another_problem_are_refused() -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        C.solve(
            bounded(double_integrator(20)),
            initial_guess=C.Guess(multipliers=C.Multipliers(torch.zeros(20, 3), torch.zeros(0))),
        )
    assert_tells(refusal.value, "guess of the multipliers of inequalities", "(20, 3)", "(20, 2)")

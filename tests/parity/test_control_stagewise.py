"""Bounds, lengths and data of every stage: against the same problem written with what changes in time."""

import shutil
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from nets import assert_tells
from plants import DOUBLE, close

C = ws.control
STEPS = 12
EXECUTIONS = [
    pytest.param(C.Eager, id="eager"),
    pytest.param(
        C.Compiled,
        id="compiled",
        marks=pytest.mark.skipif(all(shutil.which(name) is None for name in ("cc", "gcc")), reason="no C compiler"),
    ),
]
MOST = torch.tensor([[1.0, inf], [0.2, 0.5], [inf, 0.1], *[[0.4, 0.3]] * 4, *[[inf, inf]] * 5], dtype=DOUBLE)
LEAST = torch.tensor([[-0.3, -1.0], *[[-inf, -0.2]] * 5, *[[-0.1, -inf]] * 6], dtype=DOUBLE)
LENGTHS = torch.linspace(0.05, 0.35, STEPS, dtype=DOUBLE)


def moving(x: Tensor, u: Tensor, t: Tensor, *more: Tensor) -> Tensor:
    return torch.stack([x[..., 1] + 0.2 * u[..., 1], u[..., 0] - x[..., 0].sin() + 0.1 * t.cos()], -1)


def cost(x: Tensor, u: Tensor, t: Tensor, *more: Tensor) -> Tensor:
    return x.square().sum(-1) + 0.05 * u.square().sum(-1) + 0.1 * u[..., 0] * t.sin()


def posed(**changes: Any) -> C.Problem:
    given: dict[str, Any] = {"dynamics": moving, "running_cost": cost, "control_size": 2, "steps": STEPS, "dt": 0.2}
    start = torch.tensor([[1.0, 0.3], [-0.7, 0.8]], dtype=DOUBLE)
    return C.Problem(**{**given, "initial_state": start, "terminal_cost": lambda x, *more: x[..., 0] ** 2, **changes})


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_bounds_of_every_stage_are_path_constraints_that_change(execution: Callable[[], C.Execution]) -> None:
    """Infinite ones as limits that are far away."""
    wide = torch.cat((MOST, -LEAST), -1).clamp(max=50.0)
    rows = torch.cat((wide, wide[-1:]))

    def limits(x: Tensor, u: Tensor, t: Tensor, row: Tensor) -> Tensor:
        return torch.cat((u - row[..., :2], -u - row[..., 2:]), -1)

    one = C.solve(posed(bounds=(LEAST, MOST), execution=execution()), tol=1e-11)
    other = C.solve(posed(path_constraint=limits, stage_data=rows), tol=1e-11)
    assert one.converged.all()
    assert other.converged.all()
    close(one.controls, other.controls, 1e-6)
    close(one.cost, other.cost, 1e-7)
    assert bool((one.controls <= MOST + 1e-8).all())
    assert bool((one.controls >= LEAST - 1e-8).all())
    touched = (one.controls > MOST - 1e-6).any(0)
    assert int(touched.sum()) >= 3  # and they do play a part
    assert one.multipliers is not None
    assert other.multipliers is not None
    close(one.multipliers.inequality, other.multipliers.inequality, 1e-5)
    again = C.solve(posed(bounds=(LEAST, MOST)), initial_guess=one)
    assert int(again.ticks.max()) <= 1


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("integrator", [C.RK4(), C.ExplicitEuler(), C.RadauIIA(2)], ids=["rk4", "euler", "radau"])
@pytest.mark.parametrize("free", [False, True])
def test_stages_of_their_own_lengths_are_dynamics_that_run_faster(
    execution: Callable[[], C.Execution], integrator: C.Integrator, *, free: bool
) -> None:
    """x' = h f over a stage of length 1, and the time as one more state that runs at the rate h."""

    def quicker(x: Tensor, u: Tensor, t: Tensor, row: Tensor) -> Tensor:
        return row * torch.cat((moving(x[..., :2], u, x[..., 2]), torch.ones_like(x[..., :1])), -1)

    def dearer(x: Tensor, u: Tensor, t: Tensor, row: Tensor) -> Tensor:
        return row[..., 0] * (cost(x[..., :2], u, x[..., 2]) + 0.5 * free)

    start = posed().initial_state
    timed = torch.cat((start, torch.zeros_like(start[:, :1])), -1)
    rows = torch.cat((LENGTHS, LENGTHS[-1:]))[:, None]
    shared: dict[str, Any] = {"bounds": (-2.0, 2.0), "integrator": integrator}
    if free:
        shared["terminal_constraint"] = lambda x, *more: x[..., :1]
    guess = {"duration": C.FreeDuration(2.0)} if free else {}
    mine = {"running_cost": lambda x, u, t: cost(x, u, t) + 0.5 * free, **shared, **guess}
    one = C.solve(posed(dt=LENGTHS, execution=execution(), **mine))
    if free:  # the mean length of a stage is 1 there, and what it is multiplied with is chosen
        rows = rows / LENGTHS.mean()
        guess = {"duration": C.FreeDuration(2.0)}
    other = C.solve(
        posed(dynamics=quicker, running_cost=dearer, initial_state=timed, stage_data=rows, dt=1.0, **shared, **guess)
    )
    assert one.converged.all()
    assert other.converged.all()
    close(one.controls, other.controls, 1e-6)
    close(one.states, other.states[..., :2], 1e-6)
    close(one.times, other.states[..., 2], 1e-6)
    close(one.cost, other.cost, 1e-7)


def test_lengths_and_bounds_of_stages_are_differentiated() -> None:
    lengths, top = LENGTHS.clone().requires_grad_(), torch.full((STEPS, 2), 0.4, dtype=DOUBLE, requires_grad=True)

    def solved(lengths: Tensor, top: Tensor) -> C.Trajectory:
        return C.solve(posed(dt=lengths, bounds=(-1.0, top)), tol=1e-11)

    def reached(sol: C.Trajectory) -> Tensor:
        return sol.states[..., -1, :].sum() + sol.controls[..., 3, 0].sum()

    sol = solved(lengths, top)
    by_length, by_bound = torch.autograd.grad(reached(sol), [lengths, top], retain_graph=True)
    of_cost = torch.autograd.grad(sol.cost.sum(), [lengths, top])
    named = sol.gradients({"lengths": lengths, "top": top})
    close(of_cost[0], named["lengths"], 1e-8)
    close(of_cost[1], named["top"], 1e-8)
    where = int((sol.controls.detach()[..., 0] > 0.4 - 1e-7).any(0).nonzero()[0])
    step = 1e-5
    with torch.no_grad():
        for leaf, place, found in ((lengths, (4,), (by_length, of_cost[0])), (top, (where, 0), (by_bound, of_cost[1]))):
            values = []
            for side in (step, -step):
                moved = [part.detach().clone() for part in (lengths, top)]
                moved[0 if leaf is lengths else 1][place] += side
                near = solved(*moved)
                values.append(torch.stack((reached(near), near.cost.sum())))
            numeric = (values[0] - values[1]) / (2 * step)
            assert float(found[0][place]) == pytest.approx(float(numeric[0]), rel=1e-4, abs=1e-6)
            assert float(found[1][place]) == pytest.approx(float(numeric[1]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_reference_of_every_instant_is_one_that_depends_on_time(execution: Callable[[], C.Execution]) -> None:
    """With Euler's method, which reads it at the start of each stage only; and costs of an instant without time."""
    times = 0.2 * torch.arange(STEPS + 1, dtype=DOUBLE)
    shared: dict[str, Any] = {"integrator": C.ExplicitEuler(), "bounds": (-1.0, 1.0)}

    def missed(x: Tensor, where: Tensor) -> Tensor:
        return (x[..., 0] - where) ** 2

    one = C.solve(
        posed(
            running_cost=lambda x, u, t, p, row: cost(x, u, t) + p[..., 0] * missed(x, row[..., 0]),
            terminal_cost=lambda x, p, row: missed(x, row[..., 0]),
            terminal_inequality=lambda x, p, row: x[..., 1:] - row,
            path_constraint=lambda x, u, t, p, row: x[..., 1:] - row - 1,
            stage_data=times.sin()[:, None],
            parameters=torch.tensor([[3.0], [1.5]], dtype=DOUBLE),
            execution=execution(),
            **shared,
        )
    )
    weight = torch.tensor([[3.0], [1.5]], dtype=DOUBLE)
    end = times[-1].sin()
    other = C.solve(
        posed(
            running_cost=lambda x, u, t, p: cost(x, u, t),
            stage_cost=lambda x, u, t, p: 0.2 * p[..., 0] * missed(x, t.sin()),
            terminal_cost=lambda x, p: missed(x, end),
            terminal_inequality=lambda x, p: x[..., 1:] - end,
            path_constraint=lambda x, u, t, p: x[..., 1:] - t.sin()[..., None] - 1,
            parameters=weight,
            execution=execution(),
            **shared,
        )
    )
    assert one.converged.all()
    assert other.converged.all()
    close(one.controls, other.controls, 1e-7)
    close(one.cost, other.cost, 1e-9)


def test_a_controller_plans_on_a_grid_that_widens() -> None:
    """A step takes as long as the first stage, whatever comes after."""
    lengths = torch.tensor([0.1] * 4 + [0.2] * 4 + [0.4] * 4, dtype=DOUBLE)
    start = torch.tensor([1.0, 0.3], dtype=DOUBLE)
    problem = posed(dt=lengths, bounds=(-1.0, 1.0), initial_state=start)
    controller = C.MPC(problem)
    loop = controller.run(start, 40)
    assert loop.converged.all()
    assert float(loop.ticks[1:].double().mean()) < 6
    fine = C.MPC(posed(steps=28, dt=0.1, bounds=(-1.0, 1.0), initial_state=start)).run(start, 40)
    close(loop.states, fine.states, 0.05)
    moved = controller.model(start, torch.zeros(2, dtype=DOUBLE))
    one = C.solve(posed(steps=1, dt=0.1, initial_state=start), max_ticks=0)
    close(moved, one.states[1], 1e-12)


def test_stages_that_cannot_be_meant_are_refused() -> None:
    for change, words in (
        ({"dt": LENGTHS[:-1]}, "one length for each of the 12 stages"),
        ({"dt": -LENGTHS}, "positive and finite at every stage"),
        ({"bounds": (MOST[:-1], inf)}, "lower and an upper bound"),
        ({"bounds": (MOST, LEAST)}, "at stage 0"),
    ):
        with pytest.raises(ws.WorldsheetError) as caught:
            posed(**change)
        assert_tells(caught.value, words)


def test_a_controller_follows_a_reference_that_moves_on_with_its_horizon() -> None:
    """Rows of the reference by instant, handed over at each step, or the reference as a function of time."""

    def of(t: float) -> Tensor:
        return (t + 0.1 * torch.arange(16, dtype=DOUBLE)).sin()[:, None]

    start = torch.zeros(2, dtype=DOUBLE)
    shared: dict[str, Any] = {"integrator": C.ExplicitEuler(), "initial_state": start, "steps": 15, "dt": 0.1}
    shared |= {"bounds": (-2.0, 2.0), "terminal_cost": None}

    def missed(x: Tensor, where: Tensor, u: Tensor) -> Tensor:
        return 10 * (x[..., 0] - where) ** 2 + 0.01 * u.square().sum(-1)

    by_rows = C.MPC(posed(running_cost=lambda x, u, t, row: missed(x, row[..., 0], u), stage_data=of(0.0), **shared))
    by_time = C.MPC(posed(running_cost=lambda x, u, t: missed(x, t.sin(), u), **shared))
    one = by_rows.run(start, 30, stage_data=of)
    other = by_time.run(start, 30)
    assert one.converged.all()
    close(one.states, other.states, 1e-5)
    assert float((one.states[10:, 0] - one.times[10:].sin()).abs().max()) < 0.1

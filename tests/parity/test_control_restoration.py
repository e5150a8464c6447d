"""Restoration: its step against ridge regression, and problems that need it beside others that do not."""

import shutil

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.batch import ActiveBatch
from worldsheet.control.methods.initial_guess import Guess, start_of
from worldsheet.control.methods.iterate import Iterate, conditions, grown
from worldsheet.control.methods.kkt import condensed, direction
from worldsheet.control.methods.restoration import begun, eased, restored
from worldsheet.control.methods.stagewise import expanded
from worldsheet_lab.control.collection import COLLECTION

C, DOUBLE = ws.control, torch.float64
needs_c = pytest.mark.skipif(all(shutil.which(name) is None for name in ("cc", "gcc", "clang")), reason="no C compiler")
STEPS, DT = 12, 0.1


def mass(costs: float) -> ws.control.Problem:
    """From rest to somewhere else, linear throughout; what it costs must not matter to restoration."""
    return C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0] - 0.3 * x[..., 0]), -1),
        running_cost=lambda x, u, t: costs * (1 + u[..., 0] - x[..., 0]).square(),
        terminal_cost=lambda x: costs * x.square().sum(-1),
        terminal_constraint=lambda x: torch.stack((x[..., 0] - 3, 2 * x[..., 1] + 1), -1),
        initial_state=torch.tensor((0.5, 0.0), dtype=DOUBLE),
        control_size=1,
        steps=STEPS,
        dt=DT,
        integrator=C.ExplicitEuler(),
    )


def one_step(problem: ws.control.Problem) -> tuple[Iterate, float]:
    """An iterate after a step of restoration from the default guess, and its proximal term."""
    flat = Discretised.of(problem)
    at = begun(ActiveBatch(flat, start_of(flat, Guess()), 0.1).at)
    found = conditions(flat, at, expanded(flat, at.points(), at.weights()))
    at = eased(grown(at, found), found)
    moved = direction(flat, at, condensed(flat, at, found), torch.ones(1, dtype=torch.bool))
    return restored(flat, at, found, moved, 0.1), float(moved[1])


@pytest.mark.parametrize("costs", [0.0, 1e6])
def test_a_step_is_ridge_regression_of_the_end_on_controls(costs: float) -> None:
    problem = mass(costs)
    after, proximal = one_step(problem)

    def end(controls: Tensor) -> Tensor:
        state = problem.initial_state
        for control in controls:
            state = state + DT * problem.dynamics(state, control[None], torch.tensor(0.0))
        return torch.stack((state[0] - 3, 2 * state[1] + 1)) / torch.tensor((1.0, 2.0), dtype=DOUBLE)

    zero = torch.zeros(STEPS, dtype=DOUBLE)
    slope: Tensor = torch.func.jacrev(end)(zero)
    wanted = -torch.linalg.solve(slope.T @ slope + proximal * torch.eye(STEPS, dtype=DOUBLE), slope.T @ end(zero))
    assert proximal == pytest.approx(0.01)
    torch.testing.assert_close(after.controls[0, :, 0], wanted, rtol=1e-9, atol=1e-9)
    assert float(after.costates.abs().max()) == 0


def test_gaps_close_by_the_length_of_a_step_and_no_more() -> None:
    problem = mass(0.0)
    flat = Discretised.of(problem)
    standing = Guess(states=problem.initial_state.expand(STEPS + 1, -1) + torch.linspace(0, 1, STEPS + 1)[:, None])
    at = begun(ActiveBatch(flat, start_of(flat, standing), 0.1).at)
    found = conditions(flat, at, expanded(flat, at.points(), at.weights()))
    at = eased(grown(at, found), found)
    moved = direction(flat, at, condensed(flat, at, found), torch.ones(1, dtype=torch.bool))
    after = restored(flat, at, found, moved, 0.1)
    left = conditions(flat, after, expanded(flat, after.points(), after.weights())).gap
    assert float(found.gap.abs().max()) > 0.1
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-12)  # linear, so that a whole step is best


def starts(name: str) -> tuple[ws.control.Problem, Tensor]:
    """A problem of the collection that is restored from its own start, and others near the end."""
    case = COLLECTION[name]
    return case.problem(), torch.tensor([[0.0, 0.0], [0.85, 0.2], [0.0, 0.1], [0.6, 0.3]], dtype=DOUBLE)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's code generator, of torch
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=[needs_c, pytest.mark.slow])])
def test_who_is_restored_does_not_touch_the_others(*, compiled: bool) -> None:
    problem, many = starts("race-car")
    object.__setattr__(problem, "execution", C.Compiled() if compiled else C.Eager())
    together = C.solve(problem.at(many))
    assert together.converged.all()
    for row, start in enumerate(many):
        alone = C.solve(COLLECTION["race-car"].problem(start))
        assert alone.outcome.converged
        assert float(together.cost[row]) == pytest.approx(float(alone.cost), rel=1e-6)


def test_what_lies_too_far_is_reached_in_few_ticks() -> None:
    """The search alone needs 232 ticks for the first and 224 for the second."""
    for name in ("race-car", "hang-glider"):
        found = C.solve(COLLECTION[name].problem())
        assert found.outcome.converged
        assert int(found.ticks) < 60
        assert float(found.cost) == pytest.approx(COLLECTION[name].reference.cost, rel=1e-6)


@pytest.mark.parametrize(("name", "budget"), [("race-car", 13), ("hang-glider", 12)])
def test_a_budget_that_ends_within_restoration_is_no_solution(name: str, budget: int) -> None:
    """Also to a tolerance that all residuals meet as long as no cost counts."""
    found = C.solve(COLLECTION[name].problem(), max_ticks=budget, tol=0.1)
    assert not found.outcome.converged
    assert found.outcome.residual is not None
    assert found.outcome.residual > 0.1

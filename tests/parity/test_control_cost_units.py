"""The unit that a cost is counted in makes no difference to what is found."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from plants import DOUBLE, close
from worldsheet_lab.control.collection import COLLECTION

C = ws.control


def counted(problem: ws.control.Problem, unit: float) -> ws.control.Problem:
    """The same problem with costs in another unit."""
    running, end = problem.running_cost, problem.terminal_cost
    last: Callable[..., Tensor] | None = None if end is None else lambda *arguments: unit * end(*arguments)
    return replace(problem, running_cost=lambda *arguments: unit * running(*arguments), terminal_cost=last)


@pytest.mark.parametrize(
    ("name", "unit"), [("bryson-denham", 1e6), ("cart-pole", 1e6), ("orbit-raising", 1e-6), ("zermelo", 1e-6)]
)
def test_a_cost_in_another_unit_has_the_same_solution(name: str, unit: float) -> None:
    """Each of these once ended without one."""
    plain = COLLECTION[name].problem()
    start = plain.initial_state.clone().requires_grad_()
    one, other = (
        C.solve(replace(plain, initial_state=start)),
        C.solve(counted(replace(plain, initial_state=start), unit)),
    )
    assert other.outcome.converged
    assert one.multipliers is not None
    assert other.multipliers is not None
    close(other.cost / unit, one.cost.detach(), 1e-7)
    close(other.states, one.states.detach(), 1e-4)
    largest = float(one.costates.detach().abs().max().clamp(min=1.0))
    close(other.costates / unit, one.costates, 1e-3)
    close(other.multipliers.terminal / unit, one.multipliers.terminal, 1e-3 * largest)
    weights = torch.linspace(0.3, 1.0, one.controls.numel(), dtype=DOUBLE).reshape(one.controls.shape)
    mine, theirs = (torch.autograd.grad((found.controls * weights).sum(), start)[0] for found in (other, one))
    close(mine, theirs, 1e-3)


def test_each_problem_of_a_batch_has_its_own_unit() -> None:
    """The costs of three carts are counted by a parameter; the second is lost as it stands."""
    plain = COLLECTION["cart-pole"].problem()
    running, target, wall = plain.running_cost, plain.terminal_constraint, plain.path_constraint
    assert plain.terminal_cost is None
    units = torch.tensor([[1.0], [1e6], [1e-1]], dtype=DOUBLE)
    problem = replace(
        plain,
        dynamics=lambda x, u, t, p: plain.dynamics(x, u, t),
        running_cost=lambda x, u, t, p: p[..., 0] * running(x, u, t),
        terminal_constraint=None if target is None else lambda x, p: target(x),
        path_constraint=None if wall is None else lambda x, u, t, p: wall(x, u, t),
        initial_state=plain.initial_state.expand(3, -1),
        parameters=units,
    )
    found, alone = C.solve(problem), C.solve(plain)
    assert bool(found.converged.all())
    close(found.cost / units[:, 0], alone.cost.expand(3), 1e-6)
    close(found.controls, alone.controls.expand(3, -1, -1), 1e-3)


def test_a_budget_that_was_given_is_kept() -> None:
    found = C.solve(counted(COLLECTION["cart-pole"].problem(), 1e6), max_ticks=20)
    assert found.outcome.ticks == 20
    assert not found.outcome.converged

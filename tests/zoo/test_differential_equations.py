"""Differential equations inside a forward, of `torchdiffeq`: steps of any number, and an adjoint of its own."""

from functools import partial
from typing import Any

import pytest

pytest.importorskip("torchdiffeq")

import torch
import torchdiffeq
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, random_fields
from zoo.answers import Problem, assert_backprop, assert_same, autograd, everywhere, made, relaxed, square

solvers = pytest.mark.parametrize("solver", ["odeint", "odeint_adjoint"])


class Rate(nn.Module):
    """dy/dt."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(y) + t))


class Flow(nn.Module):
    """Linear, a flow from time 0 to 1, linear."""

    def __init__(self, solver: str, method: str) -> None:
        super().__init__()
        self.into, self.rate, self.out = nn.Linear(4, 3), Rate(), nn.Linear(3, 2)
        self.solve = partial(getattr(torchdiffeq, solver), method=method)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.solve(self.rate, self.into(x), torch.linspace(0, 1, 3, dtype=x.dtype))[-1])


def problem(solver: str, method: str) -> Problem:
    x, target = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 2, dtype=DOUBLE)
    return Problem(Flow(solver, method).to(DOUBLE), x.requires_grad_(), target, square)


@solvers
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("blocks", [None, everywhere, Rate], ids=["default", "everywhere", "rate"])
def test_a_flow_learns_as_under_autograd(solver: str, method: str, blocks: Any) -> None:
    assert_backprop(partial(problem, solver, method), blocks=blocks)


@solvers
def test_random_fields_of_a_flow_in_fixed_steps_become_those_of_backprop(solver: str) -> None:
    make = partial(problem, solver, "rk4")
    like, _ = relaxed(make)
    _, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert_same(ours, autograd(make), 1e-9)


def test_steps_that_follow_the_states_are_told_in_the_outcome() -> None:
    own = made(partial(problem, "odeint", "dopri5"))
    chain = ws.Chain(own.module, own.loss, blocks=Rate)
    start = random_fields(ws.relax(chain, own.x, own.target).fields, 1, 100.0)
    sol = ws.relax(chain, own.x, own.target, schedule=ws.Synchronous(), initial=start)
    assert sol.outcome.status is ws.Status.SITES_CHANGED

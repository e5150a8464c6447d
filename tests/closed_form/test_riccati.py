"""Costates forward in time against the algebraic Riccati equation."""

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import assert_tells
from worldsheet.streaming import CostateNetwork, LinearQuadratic

DOUBLE = torch.float64


def scalar(a: float, b: float, q: float, r: float) -> LinearQuadratic:
    return LinearQuadratic(*(torch.tensor([[value]], dtype=DOUBLE) for value in (a, b, q, r)))


def settled(problem: LinearQuadratic) -> torch.Tensor:
    P = torch.zeros_like(problem.A)
    for _ in range(250):
        P = problem.reversed_riccati(P, 0.1)
    return P


@pytest.mark.parametrize("a", [-0.7, 0.0, 1.3])
def test_a_scalar_settles_at_the_stabilising_root(a: float) -> None:
    b, q, r = 0.8, 2.0, 0.5
    exact = r / b**2 * (a + (a**2 + q * b**2 / r) ** 0.5)
    assert float(settled(scalar(a, b, q, r))) == pytest.approx(exact, rel=1e-10)


def test_matrices_settle_where_the_equation_is_zero_and_the_loop_is_stable() -> None:
    generator = torch.Generator().manual_seed(0)
    A, B, M = (torch.randn(3, k, dtype=DOUBLE, generator=generator) for k in (3, 2, 3))
    problem = LinearQuadratic(A, B, M @ M.T, torch.eye(2, dtype=DOUBLE))
    P = settled(problem)
    residual = problem.Q + A.T @ P + P @ A - P @ problem.answer @ P
    assert float(residual.norm()) < 1e-9 * float(P.norm())
    assert float(torch.linalg.eigvals(A - problem.answer @ P).real.max()) < 0


@pytest.mark.parametrize("a", [-0.5, 0.5])
def test_a_linear_costate_network_is_riccatis_equation(a: float) -> None:
    problem = scalar(a, 1.0, 1.0, 1.0)

    def hamiltonian(x: torch.Tensor, p: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return x @ problem.Q @ x / 2 + p @ problem.A @ x - p @ problem.answer @ p / 2

    line = nn.Linear(1, 1, bias=False, dtype=DOUBLE)
    nn.init.zeros_(line.weight)
    network = CostateNetwork(hamiltonian, line, damping=1e-12)
    state, P = torch.ones(1, dtype=DOUBLE), 0.0
    for number in range(40):
        state = network.step(state, 0.05 * number, 0.05)
        P += 0.05 * (1 + 2 * a * P - P * P)
    assert float(network.weights["weight"]) == pytest.approx(P, rel=1e-8)
    assert float(network.costate(state)) == pytest.approx(P * float(state), rel=1e-8)


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        LinearQuadratic(torch.eye(2), torch.ones(2, 1), torch.eye(2), torch.eye(2))
    assert_tells(caught.value, "[(2, 2), (2, 2), (2, 2)], which do not fit B of shape (2, 1)", "(2, 2) and (1, 1)")
    with pytest.raises(ws.errors.InputError):
        CostateNetwork(lambda x, p, t: x @ p, nn.Linear(1, 1), damping=0.0)

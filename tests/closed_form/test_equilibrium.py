"""A layer at rest under its own map: implicit differentiation on paper, and a long unrolled iteration."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Order, assert_gradients, assert_tells, every_order, grad


class Linear(nn.Module):
    """A z + B x."""

    def __init__(self, size: int, width: int, norm: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        A = torch.randn(width, width, dtype=DOUBLE, generator=generator)
        self.A = nn.Parameter(norm * A / torch.linalg.matrix_norm(A, 2))
        self.B = nn.Parameter(torch.randn(width, size, dtype=DOUBLE, generator=generator))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return z @ self.A.T + x @ self.B.T


class Cell(nn.Module):
    """tanh(A z + x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, dtype=DOUBLE)
        with torch.no_grad():
            self.inner.weight.mul_(0.8 / torch.linalg.matrix_norm(self.inner.weight, 2))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(z) + x)


def test_a_linear_layer_at_rest_is_an_inverse() -> None:
    torch.manual_seed(0)
    size, width, batch = 3, 4, 5
    layer = Linear(size, width, norm=0.9)
    chain = ws.Chain([ws.nn.Equilibrium(layer, shape=(width,))], nn.MSELoss(reduction="sum"))
    x, target = torch.randn(batch, size, dtype=DOUBLE, requires_grad=True), torch.randn(batch, width, dtype=DOUBLE)
    sol = ws.relax(chain, x, target)
    with torch.no_grad():
        inverse = torch.linalg.inv(torch.eye(width, dtype=DOUBLE) - layer.A)
        z = x @ layer.B.T @ inverse.T
        adjoint = 2 * (z - target) @ inverse  # μ = (1 − Aᵀ)⁻¹ ∇C, row by row
        wanted = {"0.module.A": adjoint.T @ z, "0.module.B": adjoint.T @ x, "input": adjoint @ layer.B}
    torch.testing.assert_close(sol.states[0], z, rtol=1e-10, atol=1e-10)
    assert sol.input_gradient is not None
    assert_gradients(sol.gradients() | {"input": sol.input_gradient}, wanted, tol=1e-8)


@every_order
def test_inside_a_network_it_is_the_limit_of_unrolling(order: Order) -> None:
    torch.manual_seed(0)
    first, cell, last = nn.Linear(3, 4, dtype=DOUBLE), Cell(4), nn.Linear(4, 2, dtype=DOUBLE)
    x, target = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 2, dtype=DOUBLE)
    z, below = torch.zeros(5, 4, dtype=DOUBLE), first(x)
    for _ in range(300):
        z = cell(z, below)
    nn.functional.mse_loss(last(z), target).backward()
    wanted = {
        f"{name}.{key}": grad(p)
        for name, part in (("0", first), ("1.module", cell), ("2", last))
        for key, p in part.named_parameters()
    }
    chain = ws.Chain([first, ws.nn.Equilibrium(cell), last], nn.MSELoss())
    assert_gradients(ws.relax(chain, x, target, schedule=order()).gradients(), wanted, tol=1e-9)


def test_a_slower_rate_rests_where_a_full_one_rings() -> None:
    layer = Linear(2, 2, norm=1.0)
    with torch.no_grad():
        layer.A.copy_(torch.diag(torch.tensor([-1.2, 0.5], dtype=DOUBLE)))
    x, target = torch.ones(1, 2, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE)
    with pytest.raises(ws.errors.RelaxationError) as refusal:
        ws.backward(ws.Chain([ws.nn.Equilibrium(layer)], nn.MSELoss()), x, target)
    assert_tells(refusal.value, "Equilibrium: the state has not settled (diverged", "does not contract")
    assert layer.A.grad is None
    slow = ws.nn.Equilibrium(layer, rate=0.5)
    sol = ws.relax(ws.Chain([slow], nn.MSELoss()), x, target)
    assert slow.outcome is not None
    assert slow.outcome.converged
    torch.testing.assert_close(sol.states[0], x @ layer.B.T / torch.tensor([2.2, 0.5], dtype=DOUBLE))


@pytest.mark.parametrize("arguments", [{"rate": 0.0}, {"rate": 2.0}, {"tol": -1.0}, {"max_ticks": 0}])
def test_constants_that_cannot_be_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ws.errors.InputError, match="Equilibrium"):
        ws.nn.Equilibrium(nn.Identity(), **arguments)


def test_a_map_that_changes_the_shape_is_refused() -> None:
    class Wider(nn.Module):
        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.cat([z, x], 1)

    with pytest.raises(ws.errors.InputError, match=r"returned shape \(2, 6\) for .* shape \(2, 3\)"):
        ws.backward(ws.Chain([ws.nn.Equilibrium(Wider())], nn.MSELoss()), torch.ones(2, 3), torch.ones(2, 3))

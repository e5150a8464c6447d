"""Statistics that a forward pass moves are moved once per relaxation, as if it had been one forward pass."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import worldsheet as ws
from nets import DOUBLE, Net, Order, assert_gradients, every_order, exact, regression


def norm_net(momentum: float | None = 0.1) -> Net:
    """Batch norm as a site of its own and inside a block."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Tanh())
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum), nn.ReLU(), block, nn.Linear(4, 4))
    return regression(module.to(DOUBLE), batch=6)


def after_one_pass(net: Net) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and buffers of one autograd pass on a copy."""
    twin = Net(copy.deepcopy(net.module), net.loss, net.x, net.target)
    return exact(twin), dict(twin.module.named_buffers())


def assert_buffers(net: Net, wanted: dict[str, Tensor], tol: float = 1e-12) -> None:
    found = dict(net.module.named_buffers())
    assert found.keys() == wanted.keys()
    for name, buffer in wanted.items():
        torch.testing.assert_close(found[name], buffer, rtol=tol, atol=tol)


@every_order
@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_move_once_under_every_schedule(order: Order, momentum: float | None) -> None:
    net = norm_net(momentum)
    for passes in (1, 2, 3):
        gradients, buffers = after_one_pass(net)
        sol = ws.relax(net.chain, net.x, net.target, schedule=order())
        assert_gradients(sol.gradients(), gradients)
        assert_buffers(net, buffers)
        assert int(net.module.get_buffer("1.num_batches_tracked")) == passes


@every_order
def test_backward_moves_statistics_once(order: Order) -> None:
    net = norm_net()
    _, buffers = after_one_pass(net)
    ws.backward(net.chain, net.x, net.target, schedule=order())
    assert_buffers(net, buffers)


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.3])
def test_statistics_move_once_at_any_rate(rate: float) -> None:
    net = norm_net()
    gradients, buffers = after_one_pass(net)
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(rate), stop=ws.Stop(max_ticks=200))
    assert_gradients(sol.gradients(), gradients, tol=1e-9)
    assert_buffers(net, buffers, tol=1e-10)


@every_order
def test_eval_mode_leaves_statistics_alone(order: Order) -> None:
    net = norm_net()
    ws.relax(net.chain, net.x, net.target)
    net.module.eval()
    kept = {name: buffer.clone() for name, buffer in net.module.named_buffers()}
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert_gradients(sol.gradients(), exact(net))
    for name, buffer in net.module.named_buffers():
        assert buffer.equal(kept[name])


def test_comparing_moves_no_statistics() -> None:
    net = norm_net()
    sol = ws.relax(net.chain, net.x, net.target)
    kept = {name: buffer.clone() for name, buffer in net.module.named_buffers()}
    assert ws.compare(net.chain, net.x, net.target, sol).relative_error == 0
    assert_buffers(net, kept, tol=0)


def test_a_shared_batch_norm_can_be_compared() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    net = regression(nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4), norm).to(DOUBLE))
    sol = ws.relax(net.chain, net.x, net.target)
    assert ws.compare(net.chain, net.x, net.target, sol).relative_error == 0


def test_a_shared_batch_norm_moves_twice_on_the_wavefront_as_in_one_pass() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    net = regression(nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4), norm).to(DOUBLE))
    gradients, buffers = after_one_pass(net)
    assert_gradients(ws.relax(net.chain, net.x, net.target).gradients(), gradients)
    assert_buffers(net, buffers)
    assert int(norm.get_buffer("num_batches_tracked")) == 2


@every_order
def test_spectral_norm_iterates_once(order: Order) -> None:
    torch.manual_seed(0)
    layers = [spectral_norm(nn.Linear(4, 4)), nn.Tanh(), spectral_norm(nn.Linear(4, 4))]
    net = regression(nn.Sequential(*layers).to(DOUBLE))
    gradients, buffers = after_one_pass(net)
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert_gradients(sol.gradients(), gradients)
    assert_buffers(net, buffers)


class Running(nn.Module):
    """A loss that keeps a running mean of itself."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=DOUBLE))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.mse_loss(output, target)
        self.total += loss.detach()
        return loss


@every_order
def test_a_loss_with_a_buffer_moves_once(order: Order) -> None:
    torch.manual_seed(0)
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh()).to(DOUBLE))
    loss = Running()
    sol = ws.relax(ws.Chain(net.module, loss), net.x, net.target, schedule=order())
    torch.testing.assert_close(loss.total, sol.loss, rtol=1e-14, atol=0)

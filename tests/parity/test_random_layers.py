"""Dropout draws one mask per relaxation, the mask autograd would draw; the generator ends where autograd leaves it."""

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Net, Order, assert_gradients, autograd, every_order, exact, grads, regression


def dropout_net() -> Net:
    """Dropout as a site of its own and inside a block."""
    torch.manual_seed(0)
    return regression(
        nn.Sequential(
            nn.Linear(4, 8),
            nn.Dropout(0.5),
            nn.Tanh(),
            nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 4)),
        ).to(DOUBLE)
    )


def seeded(net: Net, seed: int = 11) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return exact(net)


@every_order
def test_the_mask_is_autograds_for_the_same_seed(order: Order) -> None:
    net = dropout_net()
    wanted = seeded(net)
    torch.manual_seed(11)
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert_gradients(sol.gradients(), wanted)
    torch.manual_seed(11)
    ws.backward(net.chain, net.x, net.target, schedule=order())
    assert_gradients(grads(net.chain), wanted)


@every_order
def test_the_generator_is_left_where_autograd_leaves_it(order: Order) -> None:
    net = dropout_net()
    seeded(net)
    state = torch.get_rng_state()
    torch.manual_seed(11)
    ws.relax(net.chain, net.x, net.target, schedule=order())
    assert torch.get_rng_state().equal(state)


@every_order
def test_the_next_call_draws_a_fresh_mask(order: Order) -> None:
    net = dropout_net()
    torch.manual_seed(11)
    first, second = (ws.relax(net.chain, net.x, net.target, schedule=order()) for _ in range(2))
    assert not first.states[1].equal(second.states[1])
    torch.manual_seed(11)
    exact(net)
    assert_gradients(second.gradients(), exact(net))


@pytest.mark.parametrize("rate", [0.6, 1.0, 1.2])
def test_one_mask_serves_a_whole_relaxation(rate: float) -> None:
    net = dropout_net()
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(rate), stop=ws.Stop(max_ticks=200))
    # Settled on one mask: the dropped units are zeros, the others are scaled by two.
    dropped, kept = sol.states[1], sol.states[0]
    assert 0 < int((dropped == 0).sum()) < dropped.numel()
    torch.testing.assert_close(dropped, torch.where(dropped == 0, 0, 2 * kept), rtol=1e-12, atol=1e-12)
    assert ws.compare(net.chain, net.x, net.target, sol).relative_error < 1e-11


def test_comparing_replays_the_mask_and_leaves_the_generator_alone() -> None:
    net = dropout_net()
    sol = ws.relax(net.chain, net.x, net.target)
    state = torch.get_rng_state()
    for _ in range(2):
        assert ws.compare(net.chain, net.x, net.target, sol).relative_error == 0
    assert torch.get_rng_state().equal(state)


def test_in_eval_mode_nothing_is_drawn() -> None:
    net = dropout_net()
    net.module.eval()
    state = torch.get_rng_state()
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Synchronous())
    assert torch.get_rng_state().equal(state)
    assert sol.states[1].equal(sol.states[0])
    assert_gradients(sol.gradients(), exact(net))


class Noisy(nn.Module):
    """A user's own layer that draws noise by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Smoothed(nn.Module):
    """A loss that draws."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(nn.functional.dropout(output, 0.5), target)


def noise_hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * torch.rand_like(output)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(noise_hook)
    return layer


@every_order
@pytest.mark.parametrize("make", [Noisy, hooked, nn.RReLU, lambda: nn.AlphaDropout(0.3)])
def test_whatever_draws_is_replayed(make: type[nn.Module], order: Order) -> None:
    torch.manual_seed(0)
    net = regression(nn.Sequential(nn.Linear(4, 4), make(), nn.Tanh(), make()).to(DOUBLE))
    wanted = seeded(net)
    torch.manual_seed(11)
    assert_gradients(ws.relax(net.chain, net.x, net.target, schedule=order()).gradients(), wanted)


@every_order
def test_a_loss_module_that_draws_is_replayed(order: Order) -> None:
    torch.manual_seed(0)
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh()).to(DOUBLE))
    torch.manual_seed(11)
    wanted = autograd(net.module, Smoothed(), net.x, net.target)
    torch.manual_seed(11)
    sol = ws.relax(ws.Chain(net.module, Smoothed()), net.x, net.target, schedule=order())
    assert_gradients(sol.gradients(), wanted)


def test_a_loss_module_that_draws_settles_at_a_slow_rate() -> None:
    torch.manual_seed(0)
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh()).to(DOUBLE))
    chain = ws.Chain(net.module, Smoothed())
    sol = ws.relax(chain, net.x, net.target, ws.Dyadic(0.7), stop=ws.Stop(tol=1e-12))
    assert sol.outcome.converged
    assert ws.compare(chain, net.x, net.target, sol).relative_error < 1e-9

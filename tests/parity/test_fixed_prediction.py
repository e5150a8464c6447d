"""Predictive coding with fixed predictions is backprop after as many ticks as there are layers, and not before."""

import pytest
import torch
from hypothesis import given
from torch import nn

import worldsheet as ws
from nets import Net, assert_gradients, exact, law, nets, tanh_net

FIXED = ws.PredictiveCoding(prediction=ws.dynamics.Prediction.FIXED)


@law(25)
@given(nets(max_depth=7))
def test_it_is_autograds_gradient_after_a_tick_per_layer(net: Net) -> None:
    sol = ws.relax(net.chain, net.x, net.target, FIXED, stop=ws.Stop(max_ticks=len(net.chain)))
    assert_gradients(sol.gradients(), exact(net), 1e-10)
    assert ws.relax(net.chain, net.x, net.target, FIXED).outcome.converged


@pytest.mark.parametrize("depth", [3, 8])
def test_credit_takes_one_tick_per_layer(depth: int) -> None:
    net = tanh_net(depth)
    early = ws.relax(net.chain, net.x, net.target, FIXED, stop=ws.Stop(max_ticks=depth - 2)).gradients()
    wanted = exact(net)
    assert not early["0.0.weight"].any()
    torch.testing.assert_close(early["1.0.weight"], wanted["1.0.weight"], rtol=1e-12, atol=1e-14)


def test_a_slow_rate_gets_there_too() -> None:
    net = tanh_net(5)
    slow = ws.PredictiveCoding(rate=0.4, prediction=ws.dynamics.Prediction.FIXED)
    sol = ws.relax(net.chain, net.x, net.target, slow)
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net), 1e-10)


def test_errors_keep_their_digits_where_a_difference_of_activities_would_lose_them() -> None:
    """Thirty layers in float32, with credit that shrinks by thousands on its way."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(30)))
    x, target = torch.randn(2, 4, 8)
    sol = ws.relax(ws.Chain(module, nn.MSELoss()), x, target, FIXED, stop=ws.Stop(max_ticks=30))
    precise = Net(module.double(), nn.MSELoss(), x.double(), target.double())
    for name, gradient in exact(precise).items():
        assert float((sol.gradients()[name] - gradient).norm()) < 1e-3 * float(gradient.norm()), name

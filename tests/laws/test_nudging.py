"""A weak pull at the output tends to backprop's gradient: as the nudge, and in the mean as its square."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import Net, assert_gradients, distance, exact, regression, stack, tanh_net

REST = ws.Stop(max_ticks=4000, tol=1e-8, every=25)


def errors(net: Net, nudges: list[float]) -> list[float]:
    found = []
    for nudge in nudges:
        sol = ws.relax(net.chain, net.x, net.target, ws.PredictiveCoding(nudge=nudge), stop=REST)
        assert sol.outcome.converged, sol.outcome
        found.append(distance(sol.gradients(), exact(net)))
    return found


def test_the_error_is_of_first_order_in_the_nudge() -> None:
    coarse, fine = errors(tanh_net(2), [0.04, 0.01])
    assert 3.5 < coarse / fine < 4.5
    assert fine < 0.05


def test_the_mean_of_a_pull_and_a_push_is_of_second_order() -> None:
    net = tanh_net(2)
    coarse, fine = (
        distance(
            ws.centred(net.chain, net.x, net.target, ws.PredictiveCoding(nudge=nudge), stop=REST).gradients(),
            exact(net),
        )
        for nudge in (0.08, 0.02)
    )
    assert 13 < coarse / fine < 19
    assert fine < 2e-3


def test_accumulating_adds_the_mean_to_grad() -> None:
    net = tanh_net(2)
    nudged = ws.PredictiveCoding(rate=0.2, nudge=-0.1)
    both = ws.centred(net.chain, net.x, net.target, nudged, stop=ws.Stop(max_ticks=9))
    both.accumulate()
    one, other = both.pulled.gradients(), both.pushed.gradients()
    for name, parameter in net.chain.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.equal((one[name] + other[name]) / 2)
    assert both.pulled.loss < both.loss < both.pushed.loss


def test_a_followed_step_is_that_of_both_signs() -> None:
    """The first call is `centred` without it, to the bit; then the step follows weights that grow."""
    net, plain = tanh_net(4), ws.PredictiveCoding(nudge=0.1)
    followed, stop = ws.Calibration(plain, every=1), ws.Stop(max_ticks=8)
    wanted = ws.centred(net.chain, net.x, net.target, plain, stop=stop).gradients()
    assert_gradients(ws.centred(net.chain, net.x, net.target, followed, stop=stop).gradients(), wanted, tol=1e-14)
    before = followed.step
    with torch.no_grad():
        for parameter in net.chain.parameters():
            parameter.mul_(2.0)
    for _ in range(8):
        found = ws.centred(net.chain, net.x, net.target, followed, stop=stop)
    assert before is not None
    assert followed.step is not None
    assert followed.step < 0.7 * before
    again = ws.centred(net.chain, net.x, net.target, replace(plain, rate=followed.step), stop=stop)
    assert_gradients(found.gradients(), again.gradients(), tol=1e-14)


def test_a_nudged_linear_net_rests_where_its_energy_is_least() -> None:
    """Without nonlinearity the rest is known: λ = (1 + β J Jᵀ)⁻¹ ∇C for one hidden and one output layer of ones."""
    module = nn.Sequential(nn.Identity(), nn.Identity())
    net = regression(module, batch=1)
    loss = nn.MSELoss(reduction="sum")
    sol = ws.relax(ws.Chain(module, loss), net.x, net.target, ws.PredictiveCoding(nudge=0.3, averaged=False), stop=REST)
    # x_1 = x_0 − βλ, x_2 = x_1 − βλ and λ = 2(x_2 − y), so λ = 2(x_0 − y)/(1 + 4β)
    for costate in sol.costates:
        assert float((costate - 2 * (net.x - net.target) / 2.2).abs().max()) < 1e-8


def test_without_nudge_there_is_no_opposite() -> None:
    net = regression(stack(2))
    with pytest.raises(ws.errors.InputError, match="centred needs a dynamics with a nudge"):
        ws.centred(net.chain, net.x, net.target, ws.PredictiveCoding())

"""At unit rate every schedule ends with backprop's gradients, from any start, and not a tick before its time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import worldsheet as ws
from nets import (
    DOUBLE,
    Net,
    assert_gradients,
    asynchronous,
    distance,
    exact,
    law,
    nets,
    random_fields,
    regression,
    schedules,
    stack,
    tanh_net,
)


@law(60)
@given(nets(), schedules())
def test_gradients_are_autograds_under_every_schedule(net: Net, schedule: ws.schedules.Schedule) -> None:
    sol = ws.relax(net.chain, net.x, net.target, schedule=schedule)
    assert sol.outcome.converged
    assert sol.ticks == schedule.settles_after(net.chain.topology)
    assert_gradients(sol.gradients(), exact(net))


@law(25)
@given(nets(max_depth=7), st.integers(0, 4), st.integers(0, 2**20))
def test_any_order_with_any_bounded_delay_is_exact(net: Net, max_delay: int, seed: int) -> None:
    sol = ws.relax(net.chain, net.x, net.target, schedule=asynchronous(seed, max_delay))
    assert_gradients(sol.gradients(), exact(net))


@law(30)
@given(nets(max_depth=8))
def test_wavefront_is_synchronous_to_the_bit(net: Net) -> None:
    front, full = (ws.relax(net.chain, net.x, net.target, schedule=s) for s in (ws.Wavefront(), ws.Synchronous()))
    assert front.ticks == full.ticks == 2 * len(net.chain)
    assert front.loss.equal(full.loss)
    for mine, other in zip((*front.states, *front.costates), (*full.states, *full.costates), strict=True):
        assert mine.equal(other)
    found, wanted = front.gradients(), full.gradients()
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in found)


@law(30)
@given(nets(), st.sampled_from([ws.Wavefront(), ws.Sweep()]))
def test_one_evaluation_and_one_pull_back_per_layer(net: Net, schedule: ws.schedules.Schedule) -> None:
    net.x.requires_grad_()
    sol = ws.relax(net.chain, net.x, net.target, schedule=schedule)
    assert (sol.evaluations, sol.pulls) == (len(net.chain), len(net.chain))


@law(25)
@given(nets(), schedules())
def test_backward_fills_grad_and_returns_the_loss(net: Net, schedule: ws.schedules.Schedule) -> None:
    net.x.requires_grad_()
    wanted = exact(net)
    loss = ws.backward(net.chain, net.x, net.target, schedule=schedule)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, net.loss(net.module(net.x), net.target).detach(), rtol=1e-12, atol=0)
    assert net.x.grad is not None
    found = {name: p.grad for name, p in net.chain.named_parameters() if p.grad is not None}
    assert_gradients(found | {"input": net.x.grad}, wanted)


@law(25)
@given(nets(), schedules())
def test_the_input_gradient_is_autograds(net: Net, schedule: ws.schedules.Schedule) -> None:
    net.x.requires_grad_()
    sol = ws.relax(net.chain, net.x, net.target, schedule=schedule)
    assert sol.input_gradient is not None
    assert_gradients({"input": sol.input_gradient}, {"input": exact(net)["input"]})
    assert net.x.grad is None


@law(25)
@given(nets(max_depth=7), schedules(), st.integers(0, 2**20), st.sampled_from([1.0, 1e3]))
def test_the_start_is_forgotten(net: Net, schedule: ws.schedules.Schedule, seed: int, scale: float) -> None:
    like = ws.relax(net.chain, net.x, net.target)
    start = random_fields(like.fields, seed, scale)
    climbing, descending = start.doubled()
    assert not any(a.equal(b) for a, b in zip(climbing, descending, strict=True))
    sol = ws.relax(net.chain, net.x, net.target, schedule=schedule, initial=start)
    assert_gradients(sol.gradients(), exact(net))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Identity])
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 9])
def test_exact_after_two_ticks_per_layer_and_not_before(depth: int, activation: type[nn.Module]) -> None:
    torch.manual_seed(depth)
    net = regression(stack(depth, activation=activation))
    start = random_fields(ws.relax(net.chain, net.x, net.target).fields, seed=depth)

    def error(ticks: int) -> float:
        stop = ws.Stop(max_ticks=ticks)
        sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Synchronous(), stop=stop, initial=start)
        assert sol.outcome.converged == (ticks >= 2 * depth)
        return distance(sol.gradients(), exact(net))

    early = [error(ticks) for ticks in range(2 * depth)]
    # The first layer's costate comes last: a tick before, it still knows the start, dimmed by the layers in between.
    assert min(early) > 1e-7
    assert error(2 * depth) < 1e-14
    assert error(2 * depth + 7) < 1e-14  # an exact relaxation ends when it is exact


@pytest.mark.parametrize("depth", [3, 9])
def test_states_settle_after_one_tick_per_layer(depth: int) -> None:
    net = tanh_net(depth)
    full = ws.relax(net.chain, net.x, net.target).fields
    start = random_fields(full, seed=1)
    for ticks in range(2 * depth + 1):
        stop = ws.Stop(max_ticks=ticks)
        fields = ws.relax(net.chain, net.x, net.target, schedule=ws.Synchronous(), stop=stop, initial=start).fields
        settled = [a.equal(b) for a, b in zip(fields.states, full.states, strict=True)]
        assert settled == [site <= ticks for site in range(1, depth + 1)]
        settled = [a.equal(b) for a, b in zip(fields.costates, full.costates, strict=True)]
        assert settled == [2 * depth + 1 - site <= ticks for site in range(1, depth + 1)]


@pytest.mark.parametrize("flatten", [False, True])
def test_flatten_opens_nested_sequentials_and_changes_no_gradient(flatten: bool) -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4)))
    net = regression(nn.Sequential(inner, nn.Tanh()).to(DOUBLE))
    chain = ws.Chain(net.module, net.loss, flatten=flatten)
    assert [layer.name for layer in chain.layers] == (["0.0", "0.1.0", "0.1.1", "1"] if flatten else ["0", "1"])
    assert_gradients(ws.relax(chain, net.x, net.target).gradients(), exact(net))

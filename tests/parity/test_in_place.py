"""Layers that overwrite their input corrupt neither states nor the user's tensors, and learn as with autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Net, Order, assert_gradients, every_order, regression


class Doubling(nn.Module):
    """Overwrites what it is given."""

    def __init__(self, inplace_: bool = True) -> None:
        super().__init__()
        self.overwrite = inplace_

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) if self.overwrite else x * 2


def linear() -> nn.Linear:
    return nn.Linear(4, 4, dtype=DOUBLE)


def relu_first(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(inplace=overwrite), linear(), nn.Tanh())


def relu_in_the_middle(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(linear(), nn.ReLU(inplace=overwrite), linear(), nn.ELU(inplace=overwrite), linear())


def relu_first_in_a_nested_block(overwrite: bool) -> nn.Sequential:
    block = nn.Sequential(nn.Sequential(nn.ReLU(inplace=overwrite), linear()), nn.Tanh())
    return nn.Sequential(nn.Identity(), block, linear())


def dropout_in_place(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(linear(), nn.Tanh(), nn.Hardtanh(inplace=overwrite), linear())


def custom_in_the_middle(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(linear(), Doubling(overwrite), linear())


def custom_on_a_view(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(linear(), nn.Unflatten(1, (2, 2)), Doubling(overwrite), nn.Flatten(), linear())


def custom_first(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(Doubling(overwrite), linear(), nn.Tanh())


def custom_on_a_view_of_the_input(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), Doubling(overwrite), linear())


def custom_above_a_frozen_layer(overwrite: bool) -> nn.Sequential:
    return nn.Sequential(linear().requires_grad_(False), Doubling(overwrite), linear())


SAFE = [
    relu_first,
    relu_in_the_middle,
    relu_first_in_a_nested_block,
    dropout_in_place,
    custom_in_the_middle,
    custom_on_a_view,
]
UNGUARDED = [custom_first, custom_on_a_view_of_the_input, custom_above_a_frozen_layer]


def pair(make: Callable[[bool], nn.Sequential]) -> tuple[Net, Net]:
    """The layer that overwrites and its twin that does not."""
    torch.manual_seed(0)
    module, twin = make(True), make(False)
    twin.load_state_dict(module.state_dict())
    return regression(module), regression(twin)


def check(make: Callable[[bool], nn.Sequential], dynamics: ws.Dyadic, schedule: ws.schedules.Schedule) -> None:
    """Equal fields from `relax`, equal gradients from `backward`, and an input nobody wrote to."""
    stop = ws.Stop() if dynamics.rate == 1 else ws.Stop(tol=1e-13, max_ticks=300)
    net, twin = pair(make)
    kept = net.x.clone()
    sol = ws.relax(net.chain, net.x, net.target, dynamics, schedule=schedule, stop=stop)
    wanted = ws.relax(twin.chain, twin.x, twin.target)
    assert net.x.equal(kept)
    for mine, other in zip((*sol.states, *sol.costates), (*wanted.states, *wanted.costates), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)

    net, _ = pair(make)  # nothing learnt from the first call
    ws.backward(net.chain, net.x, net.target, dynamics, schedule=schedule, stop=stop)
    assert net.x.equal(kept)
    found = {name: p.grad for name, p in net.chain.named_parameters() if p.grad is not None}
    assert_gradients(found, wanted.gradients())


@every_order
@pytest.mark.parametrize("make", SAFE)
def test_overwriting_layers_are_given_a_copy(make: Callable[[bool], nn.Sequential], order: Order) -> None:
    check(make, ws.Dyadic(), order())


@pytest.mark.parametrize("make", SAFE)
def test_overwriting_layers_are_given_a_copy_at_a_slow_rate(make: Callable[[bool], nn.Sequential]) -> None:
    check(make, ws.Dyadic(0.6), ws.Synchronous())


@pytest.mark.parametrize("make", UNGUARDED)
def test_a_layer_may_overwrite_what_needs_no_grad(make: Callable[[bool], nn.Sequential]) -> None:
    check(make, ws.Dyadic(0.6), ws.Synchronous())


def test_with_an_input_gradient_a_custom_first_layer_is_given_a_copy() -> None:
    net, twin = pair(custom_first)
    net.x.requires_grad_()
    kept = net.x.detach().clone()
    ws.backward(net.chain, net.x, net.target)
    twin.x.requires_grad_()
    ws.backward(twin.chain, twin.x, twin.target)
    assert net.x.detach().equal(kept)
    assert net.x.grad is not None
    torch.testing.assert_close(net.x.grad, twin.x.grad, rtol=1e-13, atol=0)

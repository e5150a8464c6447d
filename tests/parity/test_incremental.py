"""Unlocked training by predictive coding is incremental predictive coding: all descend one energy together."""

import copy

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, stack


def energy(net: nn.Sequential, states: list[Tensor], x: Tensor, target: Tensor, precision: float) -> Tensor:
    """Of a batch, per sample."""
    below = [x, *states]
    errors = [(state - layer(z)).square().sum() for layer, z, state in zip(net, below, states, strict=False)]
    return nn.functional.cross_entropy(net[-1](below[-1]), target) + 0.5 * precision * sum(errors) / len(x)


def literal(
    net: nn.Sequential, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor, rate: float, ticks: int
) -> list[Tensor]:
    """iPC as its authors state it: at each step states and weights move down the same energy."""
    states: list[Tensor] = []
    for layer in list(net)[:-1]:
        states.append(layer([x, *states][-1]).detach())
    for _ in range(ticks):
        states = [state.requires_grad_() for state in states]
        optimizer.zero_grad()
        energy(net, states, x, target, 0.7).backward()
        states = [(state - rate * len(x) * state.grad).detach() for state in states if state.grad is not None]
        optimizer.step()
    return states


@pytest.mark.parametrize("ticks", [1, 3, 9])
@pytest.mark.parametrize("opened", [False, True])
def test_states_and_weights_descend_one_energy_together(ticks: int, opened: bool) -> None:
    torch.manual_seed(ticks)
    ours = stack(4)
    theirs = copy.deepcopy(ours)
    x, target = torch.randn(3, 4, dtype=DOUBLE), torch.tensor([0, 3, 1])
    chain = ws.Chain(ours, nn.CrossEntropyLoss(), blocks=(lambda module: module in set(ours)) if opened else None)
    x = x.requires_grad_(opened)
    dynamics = ws.PredictiveCoding(0.3, precision=0.7)
    port, optimizer = (torch.optim.SGD(net.parameters(), 0.2, momentum=0.5) for net in (ours, theirs))
    held = ws.unlocked(chain, x, target, port, dynamics, ticks=ticks, schedule=ws.Synchronous())
    states = literal(theirs, optimizer, x.detach(), target, 0.3, ticks)
    for mine, other in zip(held.fields.states[:-1], states, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)


def test_its_step_follows_the_weights_from_batch_to_batch() -> None:
    torch.manual_seed(0)
    net = stack(4)
    x, target = torch.randn(3, 4, dtype=DOUBLE), torch.tensor([0, 3, 1])
    chain = ws.Chain(net, nn.CrossEntropyLoss())
    followed, port = ws.Calibration(ws.PredictiveCoding(), every=1), torch.optim.SGD(net.parameters(), 0.01)
    first, twin = copy.deepcopy(net), copy.deepcopy(net)
    ws.unlocked(chain, x, target, port, followed, ticks=5)
    begun = followed.step
    chain_of_twin, port_of_twin = ws.Chain(twin, chain.loss), torch.optim.SGD(twin.parameters(), 0.01)
    ws.unlocked(chain_of_twin, x, target, port_of_twin, ws.PredictiveCoding(begun), ticks=5)
    for mine, other, start in zip(net.parameters(), twin.parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert not torch.equal(mine, start)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)
    for _ in range(8):
        ws.unlocked(chain, x, target, port, followed, ticks=5)
    assert begun is not None
    assert followed.step is not None
    assert followed.step < 0.7 * begun

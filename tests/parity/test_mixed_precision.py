"""Autocast around training: the rounded weights of before an update, or of another packet, are never seen again."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.pipeline import Current, DelayCompensated, Locked, Pipeline, Predicted, Stashed, Unlocked, Weights

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline was drained")

HALF = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
SGD = partial(torch.optim.SGD, lr=0.5)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)), nn.Linear(8, 4))


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 8, generator=generator), torch.randint(0, 4, (24,), generator=generator)
    return list(zip(x.split(3), y.split(3), strict=True))


@pytest.mark.parametrize("many", [1, 2])
def test_locked_stages_under_autocast_are_one_process_under_autocast(many: int) -> None:
    mine, twin = net(), net()
    with HALF():
        Pipeline(ws.Chain(mine, nn.CrossEntropyLoss()), 4, optimizer=SGD, schedule=Locked(many)).train(data())
    one = SGD(twin.parameters())
    for number, (x, target) in enumerate(data()):
        with HALF():
            loss = nn.functional.cross_entropy(twin(x), target) / many
        loss.backward()
        if (number + 1) % many == 0:
            one.step()
            one.zero_grad()
    for (name, ours), theirs in zip(mine.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("weights", [Current(), Stashed(), Predicted(), DelayCompensated()], ids=str)
def test_late_stages_under_autocast_see_the_same_with_its_cache_and_without(weights: Weights) -> None:
    found = []
    for cached in (True, False):
        mine = net()
        pipeline = Pipeline(
            ws.Chain(mine, nn.CrossEntropyLoss()), 4, optimizer=SGD, weights=weights, schedule=Unlocked(1)
        )
        with HALF(cache_enabled=cached):
            pipeline.train(data())
        found.append(list(mine.parameters()))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_a_module_that_is_evaluated_between_calls_shows_its_own_weights_and_not_those_of_packets() -> None:
    found: list[list[Tensor]] = [[], []]
    for cached, outputs in zip((True, False), found, strict=True):
        mine, weights = net(), Predicted()
        chain, order = ws.Chain(mine, nn.CrossEntropyLoss()), Unlocked(3)
        pipeline = Pipeline(chain, 4, optimizer=SGD, weights=weights, schedule=order)
        with HALF(cache_enabled=cached):
            for packet in data() * 2:
                pipeline.train([packet], drain=False)
                outputs.append(mine(packet[0]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_parameters_that_move_at_every_tick_under_autocast_are_the_ones_that_are_seen() -> None:
    x, target = data()[0]
    found = []
    for cached in (True, False):
        mine = net()
        chain = ws.Chain(mine, nn.CrossEntropyLoss())
        port = ws.ports.Resistive(ws.ports.by_site(chain), lr=0.1)
        with HALF(cache_enabled=cached):
            ws.unlocked(chain, x, target, port, ticks=12)
        found.append(list(mine.parameters()))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)

"""Stages that take messages as they come: in any order of turns each packet once, with bounded flights, and the
parameters that a literal account of the same order of deeds arrives at."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import law
from worldsheet.core.bundle import Parcel, single
from worldsheet.core.errors import InputError
from worldsheet.pipeline import ActionType, Completed, Locked, Pipeline, Predicted, Stashed, Unlocked, Weights
from worldsheet.pipeline.packet_weights import Elements
from worldsheet.pipeline.packets import Counted, PacketStream
from worldsheet.pipeline.stage import execute
from worldsheet.pipeline.transport.base import Transport, queues
from worldsheet.pipeline.transport.threads import ThreadedTransport, as_they_come

MAKE = partial(torch.optim.Adam, lr=1e-2)


class Happened(NamedTuple):
    stage: int
    act: ActionType
    packet: int


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    hidden: list[nn.Module] = [nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(3)]
    return [layer.double() for layer in (nn.Linear(4, 5), *hidden, nn.Linear(5, 3))]


def packets(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    make = partial(torch.randn, generator=generator, dtype=torch.float64)
    return [(make(3, 4), make(3, 3)) for _ in range(count)]


def in_turns(pipeline: Pipeline, data: list[tuple[Tensor, Tensor]], turns: Iterator[int]) -> list[Happened]:
    """Let stages act one at a time, as the turns say; at most `lead` + 1 packets are in flight at any moment."""
    count, order = len(pipeline.stages), pipeline.schedule
    runs = {}
    for index, links in enumerate(queues(count)):
        stream = PacketStream(Elements(), order.packets_per_update, len({0, count - 1} & {index}))
        stream.feed(data, more=False)
        actions = as_they_come(order, index, count, stream, links)
        runs[index] = execute(pipeline.stages[index], actions, links, stream)
    happened, waited = [], 0
    while runs:
        index = next(turns) % count
        done = next(runs[index], None) if index in runs else None
        if isinstance(done, Completed):
            happened.append(Happened(index, done.action.act, done.action.packet))
            waited = 0
        else:
            waited += 1
            if pipeline.stages[index].updates == -(-len(data) // order.packets_per_update):
                runs.pop(index, None)
        assert waited < 5000, "all stages wait"
        assert pipeline.stages[index].in_flight <= order.warmup(index, count) + 1
    return happened


def literal(
    parts: list[nn.Sequential],
    data: list[tuple[Tensor, Tensor]],
    happened: list[Happened],
    order: Unlocked,
    weights: Weights,
) -> None:
    """The same deeds in the same order, with autograd through one stage at a time."""
    optimizers = [MAKE(part.parameters()) for part in parts]
    before = [[p.detach().clone() for p in part.parameters()] for part in parts]
    points: dict[tuple[int, int], Tensor] = {}
    outputs: dict[tuple[int, int], Tensor] = {}
    credits: dict[tuple[int, int], Tensor] = {}
    used: dict[tuple[int, int], list[Tensor]] = {}
    for stage, act, packet in happened:
        part, last = parts[stage], stage == len(parts) - 1
        if act is ActionType.UPDATE:
            before[stage] = [p.detach().clone() for p in part.parameters()]
            optimizers[stage].step()
            optimizers[stage].zero_grad()
            continue
        key = stage, packet
        if act is ActionType.FORWARD:
            ahead = order.delay(stage, len(parts)) if isinstance(weights, Predicted) else 0.0
            pairs = zip(part.parameters(), before[stage], strict=True)
            used[key] = [(a + ahead * (a - b)).detach().requires_grad_() for a, b in pairs]
            points[key] = (outputs[stage - 1, packet] if stage else data[packet][0]).detach().requires_grad_()
            named = dict(zip((name for name, _ in part.named_parameters()), used[key], strict=True))
            outputs[key] = torch.func.functional_call(part, named, (points[key],))
            continue
        output, credit = outputs[key], credits.get((stage + 1, packet))
        if last:
            many = order.packets_per_update
            size = len(data[packet // many * many :][:many])  # of its update
            output, credit = nn.functional.mse_loss(output, data[packet][1]) / size, None
        *efforts, credits[key] = torch.autograd.grad(output, [*used[key], points[key]], credit)
        for parameter, effort in zip(part.parameters(), efforts, strict=True):
            parameter.grad = effort if parameter.grad is None else parameter.grad + effort


@pytest.mark.parametrize("weights", [Stashed(), Predicted()], ids=str)
@given(
    stages=st.integers(1, 5),
    many=st.integers(1, 3),
    slack=st.integers(0, 2),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@law(12)
def test_any_order_of_turns_is_a_training_in_that_order(
    weights: Weights, stages: int, many: int, slack: int, count: int, seed: int
) -> None:
    mine, twin = layers(), layers()
    order, data = Unlocked(many, slack), packets(count)
    chain = ws.Chain(mine, nn.MSELoss())
    pipeline = Pipeline(chain, stages, optimizer=MAKE, weights=weights, schedule=order, free_running=True)
    generator = torch.Generator().manual_seed(seed)
    favours = torch.rand(stages, generator=generator) ** 3 + 0.05  # some stages are slow

    def turns() -> Iterator[int]:
        while True:
            yield int(torch.multinomial(favours, 1, generator=generator))

    happened = in_turns(pipeline, data, turns())
    for stage in range(stages):
        own = [action for action in happened if action.stage == stage]
        assert [d.packet for d in own if d.act is ActionType.FORWARD] == list(range(count))
        assert [d.packet for d in own if d.act is ActionType.PULL] == list(range(count))
    parts = [nn.Sequential(*(twin[i] for i in pipeline.plan.layers(s))) for s in range(stages)]
    literal(parts, data, happened, order, weights)
    for ours, theirs in zip(chain.parameters(), nn.ModuleList(parts).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_turns_in_one_process_are_the_order_itself() -> None:
    nets = [layers(), layers()]
    for net, free in zip(nets, (True, False), strict=True):
        chain = ws.Chain(net, nn.MSELoss())
        Pipeline(chain, 1, optimizer=MAKE, packets_per_update=2, free_running=free).train(packets(7))
    for one, other in zip(nn.ModuleList(nets[0]).parameters(), nn.ModuleList(nets[1]).parameters(), strict=True):
        assert torch.equal(one, other)


def test_free_running_does_not_flush() -> None:
    with pytest.raises(InputError, match="unlocked order"):
        Pipeline(ws.Chain(layers(), nn.MSELoss()), 2, optimizer=MAKE, schedule=Locked(2), free_running=True)


class Broken(Transport):
    """States come until one does not; credits never do."""

    @property
    def messages(self) -> None:
        return None

    def state_here(self, packet: int) -> bool:
        raise NotImplementedError

    credit_here = state_here

    def take_state(self, packet: int) -> Tensor:
        if packet == 2:
            raise ConnectionError("gone")
        return torch.full((1,), float(packet))

    def take_credit(self, packet: int) -> Tensor:
        raise NotImplementedError

    def send_state(self, packet: int, state: Parcel) -> None:
        raise NotImplementedError

    def send_credit(self, packet: int, credit: Parcel) -> None:
        raise NotImplementedError


def test_a_listener_hands_on_what_came_and_then_the_failure() -> None:
    links = ThreadedTransport(Broken(), states=Counted(5), credits=Counted(0))
    found = []
    with pytest.raises(ConnectionError, match="gone"):
        while True:
            links.wait()
            while links.state_here(0):
                found.append(single(links.take_state(0)).item())
    assert found == [0.0, 1.0]

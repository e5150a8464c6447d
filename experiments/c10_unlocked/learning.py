"""Ways to train one net on one data set: at rest, held from silence, and as a stream of batches that never rests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.networks import Blueprint, mlp

Port = torch.optim.Optimizer
PORTS: dict[str, tuple[Callable[..., Port], tuple[float, ...]]] = {
    "resistive": (ws.ports.Resistive, (0.05, 0.1, 0.2)),
    "inertial": (partial(ws.ports.Inertial, momentum=0.9), (0.01, 0.02, 0.05)),
    "adam": (torch.optim.Adam, (0.001, 0.002, 0.004)),
}
DYNAMICS: dict[str, ws.dynamics.Dynamics] = {
    "dyadic": ws.Dyadic(),
    **{f"wave {matching}": ws.Wave(impedance=1.0, matching=matching) for matching in (0.9, 0.8, 0.5, 0.2)},
    "wave 0": ws.Wave(impedance=1.0, matching=0.0, limit=float("inf")),
}


class Mode(Enum):
    """What happens to the fields when the next batch comes."""

    SILENCE = "silence"
    """They are emptied; `Onset` lets the cost wait for a state."""
    CARRIED = "carried"
    """They go on, and meet the new batch's."""
    STREAM = "stream"
    """They go on, the target follows its batch L ticks later, and a layer moves while state and costate are of one."""
    TAGGED = "tagged"
    """A new batch at every tick; a layer remembers what each batch in flight met there, as a stage of `Pipeline`."""


@dataclass(frozen=True)
class Course:
    """What is learnt: a data set, a net, how long."""

    data: str
    depth: int
    activation: str
    epochs: int
    batch: int
    batches: int | None = None

    @property
    def name(self) -> str:
        return f"{self.data} L={self.depth}"


@dataclass(frozen=True)
class Case:
    """How it is learnt: a port, fields that are held for so many ticks."""

    course: Course
    port: str
    ticks: int
    mode: Mode
    dynamics: str = "dyadic"


@cache
def data_of(name: str) -> DataSet:
    return load(name)


def net_of(course: Course, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    data = data_of(course.data)
    return mlp(Blueprint(data.input_shape, len(data.classes), course.depth, 128, course.activation, 0.0))


def batches(course: Course, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every epoch in an order of its own; images that do not fill a batch are left to the next epoch."""
    data, generator = data_of(course.data), torch.Generator().manual_seed(seed)
    for _ in range(course.epochs):
        order = torch.randperm(len(data.train_images), generator=generator)
        full = order[: len(order) // course.batch * course.batch].split(course.batch)
        for chosen in full[: course.batches]:
            yield data.train_images[chosen], data.train_labels[chosen]


@torch.no_grad()
def accuracy(net: nn.Sequential, course: Course) -> float:
    data = data_of(course.data)
    return 100 * float((net(data.test_images).argmax(1) == data.test_labels).double().mean())


def at_rest(course: Course, port: str, lr: float, seed: int) -> float:
    """Backpropagation: `ws.backward` makes its gradients, one step a batch."""
    net = net_of(course, seed)
    chain, optimizer = ws.Chain(net, nn.CrossEntropyLoss()), PORTS[port][0](net.parameters(), lr=lr)
    for x, y in batches(course, seed):
        optimizer.zero_grad()
        ws.backward(chain, x, y)
        optimizer.step()
    return accuracy(net, course)


def unlocked(case: Case, lr: float, seed: int) -> float:
    """The same net, data and rate, with a step at every tick and rates per tick."""
    train = {Mode.STREAM: streamed, Mode.TAGGED: tagged}.get(case.mode, held)
    return train(case, lr, seed)


def tagged(case: Case, lr: float, seed: int) -> float:
    """One layer a stage, an update after every batch: credits answer parameters that have moved 2(L − l) times."""
    course = case.course
    net = net_of(course, seed)
    chain = ws.Chain(net, nn.CrossEntropyLoss())
    line = ws.Pipeline(chain, course.depth, optimizer=partial(PORTS[case.port][0], lr=lr), packets_per_update=1)
    line.train(list(batches(course, seed)))
    return accuracy(net, course)


def held(case: Case, lr: float, seed: int) -> float:
    """From silence the efforts of layer l arrive after 2L − l + 1 ticks; carried, there is one at every tick."""
    net = net_of(case.course, seed)
    chain = ws.Chain(net, nn.CrossEntropyLoss())
    groups = [{**group, "silent": min(group["silent"], case.ticks - 1)} for group in ws.ports.by_site(chain)]
    carry = case.mode is Mode.CARRIED
    port = ws.ports.per_tick(PORTS[case.port][0](net.parameters() if carry else groups, lr=lr), case.ticks)
    fields = None
    for x, y in batches(case.course, seed):
        end = ws.unlocked(chain, x, y, port, DYNAMICS[case.dynamics], ticks=case.ticks, initial=fields)
        if end.outcome.status is ws.Status.DIVERGED:
            return 0.0
        fields = end.fields if carry else None
    return accuracy(net, case.course)


def gap_of(site: int, depth: int) -> int:
    """By how many ticks the costate at a layer is later than the state that it meets there: 2(L − l) + 2."""
    return 2 * (depth - site) + 2


def streamed(case: Case, lr: float, seed: int) -> float:
    """A new batch every K ticks and no rest.

    The target reaches the output with its batch, L ticks later, and layer l moves at the K − 2(L − l) − 2 ticks of a
    batch at which state and costate are of one batch: it knows its place and the clock. Layers with none stay.
    """
    course, ticks = case.course, case.ticks
    net, depth = net_of(course, seed), course.depth
    chain = ws.Chain(net, nn.CrossEntropyLoss())
    groups = []
    for site, group in enumerate(ws.ports.by_site(chain), start=1):
        if gap_of(site, depth) < ticks:
            groups.append({**group, "silent": gap_of(site, depth), "site": site})
    if not groups:
        return accuracy(net, course)
    port = ws.ports.per_tick(PORTS[case.port][0](groups, lr=lr), ticks)
    clock = _Clock(ticks, depth)
    port.register_step_pre_hook(clock)
    fields, seen = None, []
    for number, (x, y) in enumerate(batches(course, seed)):
        seen = [*seen, y][-(depth // ticks + 2) :]
        for first, last in _segments(ticks, depth):
            behind = number - (number * ticks + first - depth) // ticks
            target = seen[max(len(seen) - 1 - behind, 0)]
            end = ws.unlocked(
                chain,
                x,
                target,
                port,
                DYNAMICS[case.dynamics],
                ticks=last - first,
                schedule=ws.Synchronous(),
                initial=fields,
            )
            fields = end.fields
    return accuracy(net, course)


def _segments(ticks: int, depth: int) -> list[tuple[int, int]]:
    """The ticks of a batch, cut where the target changes: L ticks after some batch came in."""
    turn = depth % ticks
    return [(first, last) for first, last in ((0, turn), (turn, ticks)) if first < last]


class _Clock:
    """Before each step: takes away the efforts of the layers whose state and costate are of different batches."""

    def __init__(self, ticks: int, depth: int) -> None:
        self._ticks = ticks
        self._depth = depth
        self._now = 0

    def __call__(self, port: Port, *_: Any) -> None:
        for group in port.param_groups:
            site = group["site"]
            if (self._now - site + 1) % self._ticks < gap_of(site, self._depth):
                for parameter in group["params"]:
                    parameter.grad = None
        self._now += 1

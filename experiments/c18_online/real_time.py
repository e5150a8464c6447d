"""Ours: networks that learn in real time, from the same weights as the others."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from tasks import GAIN, Task
from torch import Tensor

from worldsheet import streaming
from worldsheet.streaming import EdgePort, Inertia, Memory


@final
@dataclass(frozen=True)
class Rule:
    """How a network of ours learns.

    Attributes:
        theta: the dissipation θ per step.
        memory: of the edges.
        port: from a rate and the steps from one target to the next.
        classes: how many different speeds hidden neurons have; None for one each.
        hidden: neurons that are neither inputs nor outputs.
        elementwise: whether hidden neurons listen to the inputs and themselves only.
        first: the lowest rate that is tried, over that of the others.
    """

    theta: float
    memory: Memory | None = None
    port: Callable[[float, int], EdgePort] = lambda rate, lesson: Inertia()
    classes: int | None = None
    hidden: int = 24
    elementwise: bool = False
    first: float = 1.0


def scaled(rate: float, lesson: int) -> EdgePort:
    """Averages over 10 steps, and of squares over 1000 targets, as the others' Adam."""
    return streaming.RmsScaled(rate, mean=10.0, square=1000.0 * lesson)


def answers(task: Task, rule: Rule, rate: float, seeds: list[int]) -> Tensor:
    """Answers (steps, seeds, streams, outputs): seeds run side by side where each hears one stream."""
    if task.inputs.shape[1] == 1:
        network = built(task, rule, rate, seeds)
        heard = zip(task.inputs, task.targets, strict=True)
        steps = [network.step(u.expand(len(seeds), -1), y.expand(len(seeds), -1), 1.0).output for u, y in heard]
        return torch.stack(steps)[:, :, None]
    told = labels(task)
    by_seed = []
    for seed in seeds:
        network = built(task, rule, rate, [seed])
        by_seed.append(torch.stack([network.step(u, y, 1.0).output for u, y in zip(task.inputs, told, strict=True)]))
    return torch.stack(by_seed, 1)


def labels(task: Task) -> Tensor:
    """The targets as the network wants them: one class per stream, −1 where nothing is told; numbers as they are."""
    if not task.classes:
        return task.targets
    return task.targets.nan_to_num(-1).argmax(-1).where(~task.targets[..., 0].isnan(), -1)


def lesson(task: Task) -> int:
    """Steps from one target to the next."""
    told = ~task.targets[:, 0, 0].isnan()
    return round(len(told) / max(1, int(told.sum())))


def speeds(hidden: int, outputs: int, classes: int | None) -> Tensor:
    """c per step of what is no input: slow hidden neurons to remember and fast ones to answer, then fast outputs."""
    if classes is None:
        return torch.cat([torch.logspace(-1.3, 0.5, hidden), torch.full((outputs,), 3.0)])
    few = torch.logspace(-1.3, 0.5, classes)
    return torch.cat([few[torch.arange(hidden) % classes], few[-1:].expand(outputs)])


def built(task: Task, rule: Rule, rate: float, seeds: list[int]) -> streaming.HamiltonianNetwork:
    """Inputs, then hidden neurons, then outputs, all connected to all or element-wise; weights for each seed."""
    streams, inputs = task.inputs.shape[1:]
    outputs = task.targets.shape[-1]
    n = inputs + rule.hidden + outputs
    alone = len(seeds) == 1
    graph = elementwise(inputs, rule.hidden, outputs) if rule.elementwise else streaming.Dense(n, self_loops=True)
    network = streaming.HamiltonianNetwork(
        graph,
        range(n - outputs, n),
        range(inputs),
        model=streaming.NeuronModel(torch.cat([torch.ones(inputs), speeds(rule.hidden, outputs, rule.classes)])),
        functional=streaming.Functional(
            streaming.CrossEntropy(GAIN) if task.classes else streaming.Squared(),
            mass=streams / (rate * rule.theta),
            dissipation=rule.theta,
        ),
        memory=rule.memory,
        port=rule.port(rate, lesson(task)),
        streams=streaming.Streams(streams * len(seeds), shared=alone),
    )
    weights = torch.stack([drawn(network.graph, inputs, n - inputs, seed) for seed in seeds])
    network.point = network.point._replace(weights=weights[0] if alone else weights)
    return network


def drawn(graph: streaming.Connectivity, inputs: int, moving: int, seed: int) -> Tensor:
    """The weights of a seed, as large as the number of a neuron's parents allows."""
    matrix = torch.zeros(graph.neurons, graph.neurons)
    matrix[inputs:-1] = torch.randn(moving, graph.neurons, generator=torch.Generator().manual_seed(seed))
    matrix /= graph.in_degrees().clamp(min=1).sqrt()[:, None]
    return graph.on_edges(matrix[graph.targets, graph.sources])


def elementwise(inputs: int, hidden: int, outputs: int) -> streaming.Sparse:
    """A recurrent layer whose neurons listen to the inputs and themselves, and outputs that listen to the layer."""
    first, last = inputs, inputs + hidden
    pairs = [(source, target) for source in range(first) for target in range(first, last)]
    pairs += [(neuron, neuron) for neuron in range(first, last)]
    pairs += [(source, target) for source in range(first, last) for target in range(last, last + outputs)]
    sources, targets = torch.tensor(pairs).T
    return streaming.Sparse(last + outputs, sources, targets, self_loops=True)


SLOW = "real time, θ = 0.1"
SENDERS = partial(Rule, 1.0, streaming.SenderMemory(), scaled, 4)
RULES = {
    "real time, θ = 4": Rule(4.0, first=3.0),
    SLOW: Rule(0.1, first=3.0),
    "sender memory, θ = 4": Rule(4.0, streaming.SenderMemory(), classes=4, first=3.0),
    "sender memory, RMS": SENDERS(),
    "element-wise layer, RMS": Rule(1.0, streaming.EdgeMemory(), scaled, elementwise=True),
    "sender memory, RMS, 96 neurons": SENDERS(hidden=96),
}

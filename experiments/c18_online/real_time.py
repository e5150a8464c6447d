"""Ours: the network that learns in real time, from the same weights as the others."""

import math

import torch
from tasks import GAIN, Task
from torch import Tensor

from worldsheet import streaming


def answers(task: Task, theta: float, reach: Tensor, rate: float, seeds: list[int]) -> Tensor:
    """Answers (steps, seeds, streams, outputs): seeds run side by side where each hears one stream."""
    if task.inputs.shape[1] == 1:
        network = built(task, theta, reach, rate, seeds)
        heard = zip(task.inputs, task.targets, strict=True)
        steps = [network.step(u.expand(len(seeds), -1), y.expand(len(seeds), -1), 1.0).output for u, y in heard]
        return torch.stack(steps)[:, :, None]
    told = labels(task)
    by_seed = []
    for seed in seeds:
        network = built(task, theta, reach, rate, [seed])
        by_seed.append(torch.stack([network.step(u, y, 1.0).output for u, y in zip(task.inputs, told, strict=True)]))
    return torch.stack(by_seed, 1)


def labels(task: Task) -> Tensor:
    """The targets as the network wants them: one class per stream, −1 where nothing is told; numbers as they are."""
    if not task.classes:
        return task.targets
    return task.targets.nan_to_num(-1).argmax(-1).where(~task.targets[..., 0].isnan(), -1)


def built(task: Task, theta: float, reach: Tensor, rate: float, seeds: list[int]) -> streaming.HamiltonianNetwork:
    """Inputs, then hidden neurons, then outputs, all connected to all; a set of weights for each seed.

    `reach` is 1 − e^{−c} of the neurons that are not inputs.
    """
    streams, inputs = task.inputs.shape[1:]
    outputs = task.targets.shape[-1]
    n = inputs + len(reach)
    alone = len(seeds) == 1
    network = streaming.HamiltonianNetwork(
        streaming.Dense(n, self_loops=True),
        range(n - outputs, n),
        range(inputs),
        model=streaming.NeuronModel(torch.cat([torch.ones(inputs), -torch.log1p(-reach)])),
        functional=streaming.Functional(
            streaming.CrossEntropy(GAIN) if task.classes else streaming.Squared(),
            mass=streams / (rate * theta),
            dissipation=theta,
        ),
        streams=streaming.Streams(streams * len(seeds), shared=alone),
    )
    weights = torch.zeros(len(seeds), n + 1, n + 1)
    for own, seed in zip(weights, seeds, strict=True):
        drawn = torch.randn(len(reach), n + 1, generator=torch.Generator().manual_seed(seed))
        own[inputs:-1] = drawn / math.sqrt(n + 1)
    network.point = network.point._replace(weights=weights[0] if alone else weights)
    return network

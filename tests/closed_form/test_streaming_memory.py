"""Edges with memory against what they stand for: averages, gradients through all time, a change of momenta, Adam."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from streams import DOUBLE
from worldsheet import streaming
from worldsheet.streaming import (
    Dense,
    EdgeMemory,
    Functional,
    HamiltonianNetwork,
    Identity,
    Memory,
    NeuronModel,
    Plain,
    RmsScaled,
    SenderMemory,
    Sparse,
    SpeedClasses,
    Squared,
    Start,
    Streams,
    Tanh,
)
from worldsheet.streaming.edge_port import EdgeMotion, EdgeStep

INSTANT = 60.0  # e^{−60} is below the rounding of 1: an output that forgets at once


def recurrent_layer(inputs: int, hidden: int, outputs: int, *, loops: bool) -> Sparse:
    """Inputs into hidden neurons, which listen to themselves at most, into outputs."""
    first, last = inputs, inputs + hidden
    pairs = [(source, target) for source in range(first) for target in range(first, last)]
    pairs += [(source, target) for source in range(first, last) for target in range(last, last + outputs)]
    pairs += [(neuron, neuron) for neuron in range(first, last) if loops]
    sources, targets = torch.tensor(pairs).T
    return Sparse(last + outputs, sources, targets, self_loops=True)


def counting(graph: streaming.Connectivity, speed: Tensor, memory: Memory, **changes: Any) -> HamiltonianNetwork:
    """A network whose weights rest and whose momenta add up its efforts: θ = 0 and an infinite mass, steps of 1."""
    return HamiltonianNetwork(
        graph,
        range(graph.neurons - 2, graph.neurons),
        range(2),
        functional=Functional(Squared(), mass=math.inf, dissipation=0.0),
        memory=memory,
        start=Start(generator=torch.Generator().manual_seed(4)),
        dtype=DOUBLE,
        **{"model": NeuronModel(speed), **changes},
    )


def heard(steps: int, streams: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(steps, 2, streams, 2, dtype=DOUBLE, generator=generator)
    return [(pair[0], pair[1]) for pair in drawn]


def through_time(network: HamiltonianNetwork, stream: list[tuple[Tensor, Tensor]], activation: Any) -> Tensor:
    """∂/∂w of the sum of all losses, by autograd through all steps; one set of weights for each stream."""
    graph, speed = network.graph, network._laws.speed
    point = network.point
    shared = point.weights.dim() == len(graph.edge_shape)
    weights = (point.weights if not shared else point.weights.expand(len(point.state), *graph.edge_shape)).clone()
    weights.requires_grad_()
    matrix = weights
    if len(graph.edge_shape) == 1:
        places = (slice(None), graph.targets, graph.sources)
        matrix = torch.zeros(len(point.state), graph.neurons, graph.neurons, dtype=DOUBLE)
        matrix[places] = weights
    state, loss = point.state, torch.zeros((), dtype=DOUBLE)
    outputs = slice(graph.neurons - 3, graph.neurons - 1)
    for input, target in stream:
        state = torch.cat([input, state[:, 2:]], 1)
        answer = activation((matrix @ state[..., None])[..., 0])
        state = torch.lerp(state, answer, 1 - torch.exp(-speed))
        loss = loss + (state[:, outputs] - target).square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, weights)
    return gradient.sum(0) if shared else gradient


def misfit(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def hidden_speeds(hidden: int) -> Tensor:
    return torch.cat([torch.ones(2), torch.logspace(-1.5, 0.3, hidden), torch.full((2,), INSTANT)]).to(DOUBLE)


@pytest.mark.parametrize("shared", [True, False])
def test_traces_on_edges_are_the_gradient_through_all_time_of_an_elementwise_layer(shared: bool) -> None:
    graph = recurrent_layer(2, 5, 2, loops=True)
    stream = heard(40, 3)
    found, exact = {}, {}
    for name, memory in {"exact": EdgeMemory(), "no loops": EdgeMemory(self_loops=False)}.items():
        network = counting(graph, hidden_speeds(5), memory, streams=Streams(3, shared=shared))
        exact[name] = through_time(network, stream, torch.tanh)
        network.run(stream, 1.0)
        found[name] = network.point.momentum
    assert misfit(found["exact"], exact["exact"]) < 1e-13
    assert misfit(found["no loops"], exact["no loops"]) > 1e-2


@pytest.mark.parametrize("shared", [True, False])
def test_traces_of_senders_are_the_gradient_through_all_time_of_a_linear_layer(shared: bool) -> None:
    graph = recurrent_layer(2, 6, 2, loops=False)
    speed = torch.tensor([1.0, 1.0, 0.05, 0.05, 0.4, 0.4, 2.0, 2.0, INSTANT, INSTANT], dtype=DOUBLE)
    stream = heard(40, 3)
    linear = NeuronModel(speed, Identity())
    network = counting(graph, speed, SenderMemory(), streams=Streams(3, shared=shared), model=linear)
    exact = through_time(network, stream, lambda drive: drive)
    network.run(stream, 1.0)
    assert misfit(network.point.momentum, exact) < 1e-13
    assert network.edge_state.traces.shape == (4, 3, 11)  # three speeds of hidden neurons, one of outputs


def test_without_memory_that_gradient_is_far_away() -> None:
    graph = recurrent_layer(2, 6, 2, loops=False)
    speed, stream = hidden_speeds(6), heard(40, 3)
    network = counting(graph, speed, EdgeMemory(), streams=Streams(3))
    exact = through_time(network, stream, torch.tanh)
    today = HamiltonianNetwork(
        graph,
        range(8, 10),
        range(2),
        model=NeuronModel(speed),
        functional=Functional(Squared(), mass=math.inf, dissipation=0.0),
        streams=Streams(3),
        start=Start(generator=torch.Generator().manual_seed(4)),
        dtype=DOUBLE,
    )
    for each in (network, today):
        each.run(stream, 1.0)
    assert misfit(network.point.momentum, exact) < 1e-13
    assert misfit(today.point.momentum, exact) > 0.2


@pytest.mark.parametrize("graph", [Dense(4), recurrent_layer(2, 1, 1, loops=True)], ids=["dense", "sparse"])
def test_a_trace_of_a_sender_is_the_exponentially_weighted_mean_of_what_it_said(graph: streaming.Connectivity) -> None:
    speed = torch.tensor([3.0, 0.5, 0.5, 3.0], dtype=DOUBLE)
    network = HamiltonianNetwork(graph, [3], model=NeuronModel(speed), memory=SenderMemory(), dtype=DOUBLE)
    said, clock = [], []
    for number in range(50):
        said.append(network.point.state)
        clock.append(0.05 + 0.1 * (number % 3))
        network.step(None, torch.full((1, 1), math.sin(number), dtype=DOUBLE), clock[-1])
    elapsed = torch.tensor(clock, dtype=DOUBLE)
    until_now = elapsed.flip(0).cumsum(0).flip(0)
    for trace, c in zip(network.edge_state.traces, (0.5, 3.0), strict=True):
        weight = torch.exp(-c * (until_now - elapsed)) - torch.exp(-c * until_now)  # ∫ c e^{−c(t − τ)} dτ over a step
        expected = (weight[:, None, None] * torch.stack(said)).sum(0)
        assert torch.allclose(trace, expected, rtol=0, atol=1e-13)


def test_with_hamiltons_sign_a_trace_is_only_another_momentum() -> None:
    """(6g): with s = +1, π_w + π_i ε_ij moves under the effort F_i ε_ij, up to the step."""
    misfits = []
    for dt in (0.02, 0.01, 0.005):
        pair = [
            HamiltonianNetwork(
                Dense(3),
                [0],
                model=NeuronModel(torch.tensor([2.0, 1.0, 3.0], dtype=DOUBLE), bias=False),
                functional=Functional(Squared(), mass=math.inf, dissipation=1.5),
                sign=Plain(),
                memory=memory,
                dtype=DOUBLE,
            )
            for memory in (None, EdgeMemory(self_loops=False))
        ]
        stream: list[tuple[None, Tensor]] = [(None, torch.full((1, 1), 0.7, dtype=DOUBLE))] * round(1 / dt)
        for network in pair:
            network.run(stream, dt)
        today, traced = (network.point for network in pair)
        moved = today.momentum + today.costate[0, :, None] * pair[1].edge_state.traces[0]
        assert misfit(today.momentum, traced.momentum) > 0.3
        misfits.append(misfit(moved, traced.momentum))
    assert misfits[-1] < 0.02
    assert misfits[0] / misfits[1] == pytest.approx(2, abs=0.2)
    assert misfits[1] / misfits[2] == pytest.approx(2, abs=0.2)


def test_scaled_edges_are_torchs_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, dtype=DOUBLE, generator=generator)
    adam_weights = start.clone().requires_grad_()
    dt, mean, square, rate = 0.5, 4.0, 60.0, 0.02
    adam = torch.optim.Adam([adam_weights], lr=rate * dt, betas=(math.exp(-dt / mean), math.exp(-dt / square)))
    port = RmsScaled(rate, mean, square)
    edges = EdgeMotion(start.clone(), torch.zeros_like(start), port.squares(start), torch.zeros(2, dtype=DOUBLE))
    step = EdgeStep(dt, 0.5, 1.0, 1.0, -1.0, staggered=True)
    for number in range(60):
        effort = torch.randn(3, 4, dtype=DOUBLE, generator=generator) * (number % 7 == 0)
        adam_weights.grad = effort.clone()
        adam.step()

        def add(into: Tensor, keep: float, gain: float, effort: Tensor = effort) -> None:
            into.mul_(keep).add_(effort, alpha=gain)

        edges = port.move(edges, add, streaming.Quadratic(), step)
    assert torch.allclose(edges.weights, adam_weights.detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("memory", [None, SenderMemory(), EdgeMemory()])
def test_a_scaled_edge_begins_with_a_step_of_its_rate_whatever_its_effort(memory: Memory | None) -> None:
    """The first step of Adam is the sign of the effort; `listen` before it changes nothing of that."""
    network = HamiltonianNetwork(
        Dense(4), [0], inputs=[3], model=NeuronModel(5.0), memory=memory, port=RmsScaled(0.01), dtype=DOUBLE
    )
    one = torch.ones(1, 1, dtype=DOUBLE)
    for _ in range(300):
        network.listen(one, 0.1)
    before = network.point.weights
    network.step(one, 1e-3 * one, 0.1)
    moved = (network.point.weights - before)[0, [1, 2]].abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.001), rtol=1e-3, atol=0)


def test_speeds_by_class_are_spread_over_the_neurons_between() -> None:
    model = NeuronModel(SpeedClasses(0.05, 3.2, 4), Tanh())
    network = HamiltonianNetwork(Dense(11), [9, 10], [0], model=model, memory=SenderMemory(), dtype=DOUBLE)
    expected = [0.05, 0.2, 0.8, 3.2] * 2
    assert torch.allclose(network._laws.speed[1:9], torch.tensor(expected, dtype=DOUBLE), rtol=1e-12, atol=0)
    assert network._laws.speed[[0, 9, 10, 11]].tolist() == pytest.approx([0, 3.2, 3.2, 0])
    assert network.edge_state.traces.numel() == 4 * 12

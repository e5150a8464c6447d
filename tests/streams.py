"""Networks in real time for tests: random graphs, and equations (6) written out neuron by neuron."""

import math
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from worldsheet import streaming
from worldsheet.streaming import Connectivity, Dense, HamiltonianNetwork, Sparse

DOUBLE = torch.float64


@st.composite
def graphs(draw: st.DrawFn, most: int = 7) -> Connectivity:
    """A graph in which every neuron has a parent: dense, or sparse with self-loops and cycles."""
    neurons = draw(st.integers(2, most))
    if draw(st.booleans()):
        return Dense(neurons, self_loops=draw(st.booleans()))
    pairs = {(draw(st.integers(0, neurons - 1)), target) for target in range(neurons)}
    pairs |= draw(st.sets(st.tuples(st.integers(0, neurons - 1), st.integers(0, neurons - 1)), max_size=3 * neurons))
    sources, targets = torch.tensor(sorted(pairs)).T
    return Sparse(neurons, sources, targets, self_loops=True)


def randomised(network: HamiltonianNetwork, seed: int) -> HamiltonianNetwork:
    """The network at a point in phase space with nothing special about it; a source stays 1, an absent edge absent."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(field.shape, dtype=DOUBLE, generator=generator) for field in network.point]
    state, costate, weights, momentum = noise
    present = network.graph.on_edges(torch.ones(network.graph.edges, dtype=DOUBLE))
    if network.graph.neurons and network.point.state[0, -1] == 1:
        state[:, -1] = 1
    network.point = streaming.PhasePoint(state, costate, weights * present, momentum * present)
    return network


class Constants(NamedTuple):
    """What the reference needs to know; speeds are 0 for neurons that are held."""

    speeds: list[float]
    theta: float
    mass: float
    q: float
    r_w: float
    r: float
    outputs: list[int]
    sign: float
    staggered: bool
    every: int = 1


class Net(NamedTuple):
    """Fields of one system as plain numbers: x[b][i], π[b][i], w[i][j], π_w[i][j] (None where there is no edge)."""

    x: list[list[float]]
    p: list[list[float]]
    w: list[list[float | None]]
    pw: list[list[float | None]]


def moved(y: float, rate: float, drive: float, dt: float, exact: bool) -> float:
    """One step of ẏ = −rate y + drive."""
    if not exact:
        return y + dt * (drive - rate * y)
    gain = dt if rate == 0 else (1 - math.exp(-rate * dt)) / rate
    return math.exp(-rate * dt) * y + gain * drive


def literal(net: Net, target: list[list[float]], k: Constants, dt: float, number: int) -> Net:
    """Step `number` of (6) for tanh neurons, in loops over neurons, edges and streams; edges move at every k-th one."""
    neurons, streams = range(len(k.speeds)), range(len(net.x))
    s, exact = k.sign, k.staggered
    drives = [[sum(w * x[j] for j, w in enumerate(net.w[i]) if w is not None) for i in neurons] for x in net.x]
    slopes = [[1 - math.tanh(a) ** 2 for a in row] for row in drives]
    x = [
        [moved(net.x[b][i], k.speeds[i], k.speeds[i] * math.tanh(drives[b][i]), dt, exact) for i in neurons]
        for b in streams
    ]
    seen = x if k.staggered else net.x
    p = []
    for b in streams:
        row = []
        for i in neurons:
            force = k.r * net.x[b][i]
            for child in neurons:
                w = net.w[child][i]
                if w is not None:
                    force += w * k.speeds[child] * slopes[b][child] * net.p[b][child]
            if i in k.outputs:
                force += k.q * (seen[b][i] - target[b][k.outputs.index(i)])
            row.append(moved(net.p[b][i], k.theta - s * k.speeds[i], -s * force, dt, exact))
        p.append(row)
    if number % k.every:
        return Net(x, p, net.w, net.pw)
    felt, long = p if k.staggered else net.p, k.every * dt
    w_new: list[list[float | None]] = [[None for _ in neurons] for _ in neurons]
    pw_new: list[list[float | None]] = [[None for _ in neurons] for _ in neurons]
    for i in neurons:
        for j in neurons:
            w, pw = net.w[i][j], net.pw[i][j]
            if w is None or pw is None:
                continue
            force = sum(k.speeds[i] * slopes[b][i] * felt[b][i] * net.x[b][j] for b in streams) + k.r_w * w
            pw_new[i][j] = moved(pw, k.theta, -s * force, long, exact)
            moving = pw_new[i][j] if k.staggered else pw
            assert moving is not None
            w_new[i][j] = w - long / k.mass * moving
    return Net(x, p, w_new, pw_new)


def as_net(network: HamiltonianNetwork) -> Net:
    """A network's point with shared weights as plain numbers."""
    point, graph = network.point, network.graph
    edges = set(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True))

    def matrix(values: Tensor) -> list[list[float | None]]:
        if values.dim() == 1:
            full = torch.zeros(graph.neurons, graph.neurons, dtype=values.dtype)
            full[graph.targets, graph.sources] = values
            values = full
        rows = values.tolist()
        return [[rows[i][j] if (j, i) in edges else None for j in range(graph.neurons)] for i in range(graph.neurons)]

    return Net(point.state.tolist(), point.costate.tolist(), matrix(point.weights), matrix(point.momentum))


def largest_difference(one: Net, other: Net) -> float:
    """Over all fields and places."""
    worst = 0.0
    for field in Net._fields:
        for row, other_row in zip(getattr(one, field), getattr(other, field), strict=True):
            for a, b in zip(row, other_row, strict=True):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    worst = max(worst, abs(a - b))
    return worst

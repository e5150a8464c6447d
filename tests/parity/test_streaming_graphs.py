"""Graphs: networkx's answers, invariants of the builders, policies by what they are told."""

import math
from collections.abc import Callable

import networkx
import pytest
import torch
from torch import Tensor

from streams import DOUBLE
from worldsheet import streaming
from worldsheet.streaming import (
    Connectivity,
    CrossEntropy,
    Custom,
    Dense,
    HamiltonianNetwork,
    Identity,
    Logistic,
    NeuronModel,
    PeriodicFlip,
    Rectifier,
    Streams,
    Tanh,
    Trace,
    TrackFlip,
)
from worldsheet.streaming.state import Snapshot


def pairs(graph: Connectivity) -> set[tuple[int, int]]:
    return set(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True))


@pytest.mark.parametrize(
    "graph",
    [networkx.gnp_random_graph(12, 0.3, seed=1, directed=True), networkx.krackhardt_kite_graph()],
    ids=["directed", "not"],
)
def test_a_graph_of_networkx_keeps_its_edges(graph: "networkx.Graph[int]") -> None:
    found = streaming.from_networkx(graph)
    assert pairs(found) == set(graph.to_directed().edges)
    for neuron in range(found.neurons):
        directed = graph.to_directed()
        assert found.parents(neuron) == sorted(directed.predecessors(neuron))
        assert found.children(neuron) == sorted(directed.successors(neuron))
    reached = found.reached_from(torch.tensor([0])).nonzero().flatten().tolist()
    assert set(reached) == {0} | networkx.descendants(graph.to_directed(), 0)


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_the_entries_of_a_matrix_are_edges_whatever_its_layout(layout: torch.layout) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.where(torch.rand(9, 9, generator=generator) < 0.3, torch.randn(9, 9, generator=generator), 0.0)
    given = matrix.to_sparse(layout=layout) if layout is not torch.strided else matrix
    graph = streaming.from_matrix(given, self_loops=True)
    assert pairs(graph) == {(source, target) for target, source in matrix.nonzero().tolist()}
    state = torch.randn(2, 9, generator=generator)
    weights = matrix[graph.targets, graph.sources]
    assert torch.allclose(graph.drive(weights, state), state @ matrix.T, atol=1e-6)


def test_builders_make_what_they_say() -> None:
    assert pairs(streaming.layered([2, 1, 2])) == {(0, 2), (1, 2), (2, 3), (2, 4)}
    ring = streaming.small_world(10, 3, 0.0, torch.Generator())
    assert ring.parents(0) == [1, 8, 9]
    for rewiring in (0.3, 1.0):
        world = streaming.small_world(20, 4, rewiring, torch.Generator().manual_seed(1))
        assert world.in_degrees().tolist() == [4] * 20
        near = sum((source - target) % 20 in (1, 2, 18, 19) for source, target in pairs(world))
        assert near == 0 if rewiring == 1 else 40 < near < 70
    assert streaming.random(30, 5, torch.Generator()).in_degrees().tolist() == [5] * 30
    assert pairs(Dense(3)) == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert pairs(Dense(2).with_source()) == {(0, 1), (1, 0), (2, 0), (2, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("activation", [Tanh(), Logistic(), Rectifier(), Identity()])
def test_slopes_are_derivatives(activation: streaming.Activation) -> None:
    drive = torch.linspace(-2, 2, 10, dtype=DOUBLE).reshape(2, 5).requires_grad_()
    speed = torch.arange(1.0, 6.0, dtype=DOUBLE)
    value = activation.value(drive)
    (expected,) = torch.autograd.grad((value * speed).sum(), drive)
    assert torch.allclose(activation.slope(speed, drive, value), expected, rtol=0, atol=1e-14)


def test_cross_entropy_is_torchs_and_a_function_of_ones_own_is_differentiated() -> None:
    output = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([3, 0, 1])
    expected = 2 * torch.nn.functional.cross_entropy(1.5 * output, target, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), output)
    own = Custom(lambda o, t: 2 * torch.nn.functional.cross_entropy(1.5 * o, t, reduction="none"))
    for potential in (CrossEntropy(gain=1.5, weight=2.0), own):
        value, gradient = potential.value_and_gradient(output.detach(), target)
        assert torch.allclose(value, expected.detach(), rtol=0, atol=1e-14)
        assert torch.allclose(gradient, slope, rtol=0, atol=1e-14)


def test_a_clock_flips_the_sign_and_the_trace_tells_when() -> None:
    network = HamiltonianNetwork(
        Dense(3), [0], model=NeuronModel(2.0), sign=PeriodicFlip(0.5, plain=0.25), dtype=DOUBLE
    )
    trace = Trace()
    network.run([(None, torch.zeros(1, 1))] * 12, 0.125, trace)
    assert trace.signs[:, 0].tolist() == [1, -1, -1, -1] * 3
    assert trace.flips == [0.125, 0.5, 0.625, 1.0, 1.125]


def test_a_track_holds_each_system_by_itself() -> None:
    radius = 0.02
    network = HamiltonianNetwork(
        Dense(3),
        [0],
        model=NeuronModel(20.0),
        sign=TrackFlip(streaming.costate_within(radius)),
        streams=Streams(2, shared=False),
        dtype=DOUBLE,
    )
    trace = Trace()
    target = torch.tensor([[0.1], [0.9]], dtype=DOUBLE)
    network.run([(None, target)] * 150, 0.005, trace)
    expected = torch.where(trace.costate_norms <= radius, 1.0, -1.0)
    assert torch.equal(trace.signs, expected.double())
    assert {1.0, -1.0} == set(trace.signs[:, 1].tolist())
    assert not torch.equal(trace.signs[:, 0], trace.signs[:, 1])
    assert float(trace.costate_norms.max()) < 3 * radius


@pytest.mark.parametrize(
    ("inside", "recorded"),
    [
        (streaming.hamiltonian_within(-0.02, 0.02), lambda trace: trace.hamiltonians.abs() <= 0.02),
        (lambda moment: moment.energies().lagrangian < 0.05, lambda trace: trace.lagrangians < 0.05),
    ],
    ids=["energy", "of one's own"],
)
def test_the_sign_flips_where_the_recorded_energies_cross_the_boundary_of_the_track(
    inside: Callable[[Snapshot], Tensor], recorded: Callable[[Trace], Tensor]
) -> None:
    network = HamiltonianNetwork(Dense(5), [0], model=NeuronModel(20.0), sign=TrackFlip(inside), dtype=DOUBLE)
    trace = Trace()
    wanted = [torch.full((1, 1), 0.6 * math.sin(number * 0.02), dtype=DOUBLE) for number in range(400)]
    network.run([(None, each) for each in wanted], 0.005, trace)
    on_track = recorded(trace)[:, 0]
    assert torch.equal(trace.signs[:, 0] == 1, on_track)
    crossings = [time for time, crossed in zip(trace.times[1:], on_track.diff().tolist(), strict=True) if crossed]
    assert trace.flips == crossings
    assert 4 < len(crossings) < 300


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_long_runs_of_neurons_with_equally_many_parents_are_the_matrix(streams: int, shared: bool) -> None:
    """Many edges take other kernels than few: copies of runs, products of compressed matrices."""
    graph = streaming.layered([100, 150, 120])
    generator = torch.Generator().manual_seed(0)
    count = graph.edges if shared else (streams, graph.edges)
    edges, before = (torch.randn(count, dtype=DOUBLE, generator=generator) for _ in range(2))
    state, felt = (torch.randn(streams, graph.neurons, dtype=DOUBLE, generator=generator) for _ in range(2))
    matrix = torch.zeros(streams, graph.neurons, graph.neurons, dtype=DOUBLE)
    matrix[:, graph.targets, graph.sources] = edges
    assert torch.allclose(graph.drive(edges, state), torch.einsum("bij,bj->bi", matrix, state), rtol=0, atol=1e-12)
    assert torch.allclose(graph.pull(edges, felt), torch.einsum("bij,bi->bj", matrix, felt), rtol=0, atol=1e-12)
    product = (felt[:, :, None] * state[:, None])[:, graph.targets, graph.sources]
    expected = 0.9 * before + 0.3 * (product.sum(0) if shared else product)
    graph.add_effort(before, felt, state, keep=0.9, gain=0.3)
    assert torch.allclose(before, expected, rtol=0, atol=1e-12)

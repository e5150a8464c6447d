"""Vectorised equations of motion against loops over neurons, edges and streams, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nets import law
from streams import DOUBLE, Constants, as_net, graphs, largest_difference, literal, randomised
from worldsheet import streaming
from worldsheet.streaming import (
    ConstantFlip,
    Dense,
    Exponential,
    ForwardEuler,
    Functional,
    HamiltonianNetwork,
    NeuronModel,
    Plain,
    Quadratic,
    Sparse,
    Squared,
    Start,
    Streams,
)

DT = 0.01


@law(20)
@given(
    graph=graphs(),
    seed=st.integers(0, 2**20),
    streams=st.integers(1, 3),
    flipped=st.booleans(),
    exact=st.booleans(),
    bias=st.booleans(),
    held=st.booleans(),
    every=st.integers(1, 2),
)
def test_a_step_is_the_equations_written_out(  # noqa: PLR0913, PLR0917  an argument per axis
    graph: streaming.Connectivity,
    seed: int,
    streams: int,
    flipped: bool,
    exact: bool,
    bias: bool,
    held: bool,
    every: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = graph.neurons
    speeds = 1 + 9 * torch.rand(n, dtype=DOUBLE, generator=generator)
    held = held and bool(graph.reached_from(torch.tensor([n - 1]))[0])
    network = HamiltonianNetwork(
        graph,
        outputs=[0],
        inputs=[n - 1] if held else [],
        model=NeuronModel(speeds, bias=bias),
        functional=Functional(Squared(3.0), Quadratic(0.2, 0.1), mass=0.5, dissipation=2.0),
        sign=ConstantFlip() if flipped else Plain(),
        integrator=Exponential(every) if exact else ForwardEuler(every),
        streams=Streams(streams),
        dtype=DOUBLE,
    )
    randomised(network, seed)
    clamped = ([n - 1] if held else []) + ([n] if bias else [])
    moving = [0.0 if i in clamped else speed for i, speed in enumerate([*speeds.tolist(), 0.0][: n + bias])]
    constants = Constants(moving, 2.0, 0.5, 3.0, 0.2, 0.1, [0], -1.0 if flipped else 1.0, exact, every)
    expected = as_net(network)
    for number in range(1, 4):
        target = torch.randn(streams, 1, dtype=DOUBLE, generator=generator)
        given = torch.randn(streams, 1, dtype=DOUBLE, generator=generator) if held else None
        if given is not None:
            for row, value in zip(expected.x, given[:, 0].tolist(), strict=True):
                row[n - 1] = value
        expected = literal(expected, target.tolist(), constants, DT, number)
        network.step(given, target, DT)
    assert largest_difference(as_net(network), expected) < 1e-12


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_a_list_of_edges_is_the_matrix(streams: int, shared: bool) -> None:
    dense = Dense(6, self_loops=False)
    sparse = Sparse(6, dense.sources, dense.targets)
    networks = [
        HamiltonianNetwork(graph, [0, 1], streams=Streams(streams, shared=shared), dtype=DOUBLE)
        for graph in (dense, sparse)
    ]
    matrix, listed = networks
    weights = listed.point.weights.reshape(-1, listed.graph.edges)
    full = torch.zeros(len(weights), 7, 7, dtype=DOUBLE)
    full[:, listed.graph.targets, listed.graph.sources] = weights
    matrix.point = matrix.point._replace(weights=full[0] if shared else full, state=listed.point.state)
    for number in range(20):
        for network in networks:
            network.step(None, torch.full((streams, 2), 0.3 * (number % 7), dtype=DOUBLE), 0.002)
    assert torch.allclose(matrix.output, listed.output, rtol=0, atol=1e-12)
    assert torch.allclose(matrix.point.costate, listed.point.costate, rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph", [Dense(4, self_loops=True), streaming.layered([2, 3, 1])], ids=["dense", "sparse"])
def test_streams_with_weights_of_their_own_are_networks_of_their_own(graph: streaming.Connectivity) -> None:
    def built(streams: Streams) -> HamiltonianNetwork:
        outputs, inputs = [graph.neurons - 1], [0, 1]
        generator = torch.Generator().manual_seed(3)
        functional = Functional(regulariser=Quadratic(0.01))
        start = Start(generator=generator)
        return HamiltonianNetwork(
            graph, outputs, inputs, functional=functional, streams=streams, start=start, dtype=DOUBLE
        )

    together, alone = built(Streams(2, shared=False)), [built(Streams()) for _ in range(2)]
    for number, network in enumerate(alone):
        network.point = streaming.PhasePoint(
            *(field[number : number + 1] for field in together.point[:2]),
            *(field[number] for field in together.point[2:]),
        )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        given = torch.randn(2, 2, dtype=DOUBLE, generator=generator)
        target = given.sum(1, keepdim=True).tanh()
        together.step(given, target, 0.002)
        for number, network in enumerate(alone):
            network.step(given[number : number + 1], target[number : number + 1], 0.002)
    assert (together.point.weights[0] != together.point.weights[1]).any()
    for number, network in enumerate(alone):
        assert torch.allclose(together.point.weights[number], network.point.weights, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "sign", [ConstantFlip(), streaming.PeriodicFlip(0.01), streaming.TrackFlip(streaming.costate_within(0.5))]
)
def test_a_saved_network_goes_on_to_the_same_bits(sign: streaming.SignPolicy) -> None:
    def built() -> HamiltonianNetwork:
        return HamiltonianNetwork(Dense(5), [0], sign=sign)

    def steps(network: HamiltonianNetwork, first: int, last: int) -> None:
        for number in range(first, last):
            network.step(None, torch.tensor([[0.5 * (number % 11) / 11]]), 0.002)

    whole, half, rest = built(), built(), built()
    steps(whole, 0, 30)
    steps(half, 0, 13)
    rest.load_state_dict(half.state_dict())
    steps(rest, 13, 30)
    assert rest.steps == 30
    assert rest.time == whole.time
    for mine, theirs in zip(rest.point, whole.point, strict=True):
        assert torch.equal(mine, theirs)


def test_recording_and_looking_between_steps_change_nothing() -> None:
    """A step that computes energies moves the network to the same bits as one that does not."""
    watched, left = (HamiltonianNetwork(Dense(5), [0]) for _ in range(2))
    for number in range(20):
        target = torch.tensor([[0.5 * (number % 11) / 11]])
        assert watched.step(None, target, 0.002, record=True).energies is not None
        assert left.step(None, target, 0.002).energies is None
        assert left.finite
        if number % 3 == 0:
            watched.point = watched.point
    for mine, theirs in zip(watched.point, left.point, strict=True):
        assert torch.equal(mine, theirs)


def test_energies_are_those_of_the_point_that_a_step_begins_at() -> None:
    model = NeuronModel(speed=20.0, bias=False)
    moving = HamiltonianNetwork(Dense(5), [0], model=model, dtype=DOUBLE, functional=Functional(mass=0.7))
    for number in range(20):
        target, before = torch.tensor([[0.5 * (number % 11) / 11]], dtype=DOUBLE), moving.point
        energies = moving.step(None, target, 0.002, record=True).energies
        assert energies is not None
        kinetic = before.momentum.square().sum() / (2 * 0.7)
        potential = 0.5 * (before.state[0, 0] - target[0, 0]) ** 2
        velocity = 20 * (torch.tanh(moving.graph.drive(before.weights, before.state)) - before.state)
        work = (before.costate * velocity).sum()
        assert float(energies.kinetic) == pytest.approx(float(kinetic), rel=1e-12)
        assert float(energies.lagrangian) == pytest.approx(float(kinetic + potential), rel=1e-12)
        assert float(energies.hamiltonian) == pytest.approx(float(potential + work - kinetic), rel=1e-12)
        norm = (before.costate.square().sum() + before.momentum.square().sum()).sqrt()
        assert float(energies.costate_norm) == pytest.approx(float(norm), rel=1e-12)


def test_a_point_is_a_copy() -> None:
    network = HamiltonianNetwork(Dense(5), [0])
    own = torch.full((6, 6), 0.1).fill_diagonal_(0)
    network.point = network.point._replace(weights=own)
    held = network.point
    for _ in range(3):
        network.step(None, torch.full((1, 1), 0.9), 0.002)
    assert torch.equal(own, torch.full((6, 6), 0.1).fill_diagonal_(0))
    assert torch.equal(held.weights, own)
    assert not torch.equal(network.point.weights, own)

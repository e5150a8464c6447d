"""Locality in space and time: what an update of a neuron reads, by perturbation and by the source."""

import ast
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nets import law
from streams import DOUBLE, graphs, randomised
from worldsheet.streaming import (
    Connectivity,
    ConstantFlip,
    Dense,
    EdgeMemory,
    EdgeState,
    Exponential,
    ForwardEuler,
    Functional,
    HamiltonianNetwork,
    NeuronModel,
    PhasePoint,
    Quadratic,
    RmsScaled,
    SenderMemory,
    Sparse,
    equations,
)
from worldsheet.streaming.edge_port import EdgeMotion
from worldsheet.streaming.equations import Activations

SPREAD = 1.7


def dependencies(graph: Connectivity, exact: bool, seed: int) -> dict[int, set[int]]:
    """For each neuron, whose values its update in a step reads: state, costate, incoming weights, their momenta.

    The drive a_k is a value of neuron k, as x_k is, and is perturbed with it.
    """
    network = HamiltonianNetwork(
        graph,
        [0],
        model=NeuronModel(3.0, bias=False),
        functional=Functional(regulariser=Quadratic(0.1, 0.2), mass=0.5, dissipation=1.0),
        sign=ConstantFlip(),
        integrator=Exponential() if exact else ForwardEuler(),
        dtype=DOUBLE,
    )
    point = randomised(network, seed).point
    before = after(network, point, network._laws.see(point.weights, point.state))
    reads: dict[int, set[int]] = {neuron: set() for neuron in range(graph.neurons)}
    for changed in range(graph.neurons):
        own = graph.targets == changed
        state, costate = point.state.clone(), point.costate.clone()
        state[:, changed] += SPREAD
        costate[:, changed] += SPREAD
        bump = graph.on_edges(own.to(DOUBLE) * SPREAD)
        there = PhasePoint(state, costate, point.weights + bump, point.momentum + bump)
        sight = network._laws.see(point.weights, point.state)
        drive = sight.drive.clone()
        drive[:, changed] += SPREAD
        found = after(network, there, Activations(drive, drive.tanh()))
        heard = network._laws.see(point.weights, there.state).drive != sight.drive
        for neuron in range(graph.neurons):
            same = all(torch.equal(*pair) for pair in zip(found[neuron], before[neuron], strict=True))
            if bool(heard[0, neuron]) or not same:
                reads[neuron].add(changed)
    return reads


def after(network: HamiltonianNetwork, point: PhasePoint, sight: Activations) -> dict[int, list[Tensor]]:
    """What each neuron holds after a step from a point whose drives are given."""
    equations, graph = network._laws, network.graph
    pace = equations.coefficients(-1.0, 0.05, shared=True)
    staggered = equations.integrator.staggered
    state = equations.state(point.state, sight, pace)
    blame = torch.zeros_like(state)
    blame[:, 0] = (state if staggered else point.state)[:, 0] - 0.3
    conductance = equations.conductance(sight)
    felt = equations.sensitivity(point.costate, conductance)
    costate = equations.costate(point, equations.pull(point, felt) + blame, pace)
    felt = equations.sensitivity(costate, conductance) if staggered else felt
    none = torch.empty(0)
    own = EdgeMotion(point.weights.clone(), point.momentum.clone(), none, none)
    weights, momentum, *_ = equations.learn(own, equations.effort(point.state, felt, pace), pace)
    rows = {}
    for neuron in range(graph.neurons):
        edges = graph.on_edges((graph.targets == neuron).to(DOUBLE)) != 0
        rows[neuron] = [state[:, neuron], costate[:, neuron], momentum[edges], weights[edges]]
    return rows


@law(15)
@given(graph=graphs(), exact=st.booleans(), seed=st.integers(0, 2**20))
def test_an_update_reads_a_neuron_its_parents_and_its_children(graph: Connectivity, exact: bool, seed: int) -> None:
    for neuron, read in dependencies(graph, exact, seed).items():
        assert read == {neuron, *graph.parents(neuron), *graph.children(neuron)}


@law(15)
@given(graph=graphs(), seed=st.integers(0, 2**20))
def test_nothing_travels_faster_than_one_edge_a_step(graph: Connectivity, seed: int) -> None:
    """A whole `step`: what is two edges away or further does not move by a bit, drives included."""

    def moved(bump: float) -> Tensor:
        network = randomised(HamiltonianNetwork(graph, [0], model=NeuronModel(bias=False), dtype=DOUBLE), seed)
        state = network.point.state.clone()
        state[:, -1] += bump
        network.point = network.point._replace(state=state)
        network.step(None, torch.zeros(1, 1, dtype=DOUBLE), 0.01)
        return network.point.state

    last = graph.neurons - 1
    differs = (moved(0.0) != moved(SPREAD))[0].nonzero().flatten().tolist()
    assert set(differs) == {last, *graph.children(last)}


ELEMENTWISE = {"lerp", "mul_", "addcmul_", "add", "add_", "to", "view", "value", "slope", "sign", "move"}
MEETINGS = {"drive", "pull", "add_effort"}


def called(tree: ast.AST) -> set[str]:
    """Names of all functions and methods called in a module, its own left out."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            names.add(name)
    return names - own


def test_the_equations_are_elementwise_but_for_the_sums_over_edges() -> None:
    tree = ast.parse(Path(equations.__file__).read_text(encoding="utf-8"))
    allowed = {
        "pull_states",
        "pull_weights",
        "dataclass",
        "isinstance",
        "len",
        "advance",
        "StepFactors",
        "EdgeStep",
        "float",
        "torch.tensor",
        "tensor",
    }
    assert called(tree) <= ELEMENTWISE | MEETINGS | allowed
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.MatMult)]
    meeting = {
        node.func.attr: ast.unparse(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MEETINGS
    }
    assert {meeting[name] for name in MEETINGS} == {"self.graph"}


def test_a_network_keeps_nothing_of_the_past() -> None:
    ring = Sparse(4, torch.arange(4), (torch.arange(4) + 1) % 4)
    network = HamiltonianNetwork(ring, [0], dtype=DOUBLE)
    for _ in range(5):
        network.step(None, torch.zeros(1, 1, dtype=DOUBLE), 0.01)
    changing = {name for name, value in vars(network).items() if isinstance(value, (Tensor, tuple, list))}
    assert changing == {"_point", "_edge_state"}
    assert not any(kept.numel() for kept in network.edge_state)
    assert all(field.grad_fn is None for field in network.point)
    assert len(network._coefficients) == 1


@law(15)
@given(graph=graphs(), seed=st.integers(0, 2**20), senders=st.booleans(), bump=st.sampled_from(["state", "costate"]))
def test_with_memory_a_step_carries_states_one_edge_forward_and_errors_one_edge_back(
    graph: Connectivity, seed: int, senders: bool, bump: str
) -> None:
    """Whole steps: weights into a neuron read its children, its parents and, through errors of outputs, co-parents."""
    output = graph.neurons - 1

    def moved(size: float) -> tuple[PhasePoint, EdgeState]:
        memory = SenderMemory() if senders else EdgeMemory()
        network = HamiltonianNetwork(graph, [output], model=NeuronModel(bias=False), memory=memory, dtype=DOUBLE)
        randomised(network, seed)
        network.step(None, torch.zeros(1, 1, dtype=DOUBLE), 0.01)
        point = network.point
        getattr(point, bump)[:, 0] += size
        network.point = point
        network.step(None, torch.zeros(1, 1, dtype=DOUBLE), 0.01)
        return network.point, network.edge_state

    (before, kept), (after, changed) = moved(0.0), moved(SPREAD)
    children, parents = set(graph.children(0)), set(graph.parents(0))
    heard = {0, *children} if bump == "state" else set()
    felt = {0, *parents}
    if bump == "state":
        felt |= {each for child in children for each in graph.parents(child)} | children
        if output in heard:
            felt |= {output, *graph.parents(output)}
    assert set((before.state != after.state)[0].nonzero().flatten().tolist()) <= heard
    assert set((before.costate != after.costate)[0].nonzero().flatten().tolist()) <= felt
    edges = (graph.on_edges(torch.ones(graph.edges, dtype=DOUBLE)) != 0) & (before.weights != after.weights)
    places = torch.zeros(graph.neurons, graph.neurons, dtype=torch.bool)
    if edges.dim() == 1:
        places[graph.targets[edges], graph.sources[edges]] = True
    else:
        places = edges
    assert set(places.any(1).nonzero().flatten().tolist()) <= felt
    if senders:
        assert set((kept.traces != changed.traces)[:, 0].any(0).nonzero().flatten().tolist()) <= {0}


def test_memory_is_as_large_after_many_steps_as_after_one() -> None:
    memories = (SenderMemory(), EdgeMemory())
    networks = [HamiltonianNetwork(Dense(6), [0], memory=memory, port=RmsScaled(1e-3)) for memory in memories]

    def sizes() -> list[dict[str, int]]:
        return [{name: value.numel() for name, value in network.state_dict().items()} for network in networks]

    for network in networks:
        network.step(None, torch.zeros(1, 1), 0.01)
    early = sizes()
    for network in networks:
        network.run([(None, torch.full((1, 1), 0.3))] * 3000, 0.01)
        assert len(network._coefficients) == 1
        assert network.finite
    assert sizes() == early
    assert [each["traces"] for each in early] == [7, 49]  # one speed; Dense(6) and its source

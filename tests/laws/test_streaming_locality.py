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
    Exponential,
    ForwardEuler,
    Functional,
    HamiltonianNetwork,
    NeuronModel,
    PhasePoint,
    Quadratic,
    Sparse,
    equations,
)
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
    own = point._replace(weights=point.weights.clone(), momentum=point.momentum.clone())
    weights, momentum = equations.learn(own, felt, pace), own.momentum
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


ELEMENTWISE = {"lerp", "mul_", "addcmul_", "add", "add_", "to", "view", "value", "slope"}
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
    assert changing == {"_point"}
    assert all(field.grad_fn is None for field in network.point)
    assert len(network._coefficients) == 1

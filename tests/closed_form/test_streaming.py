"""Networks in real time against results on paper: one neuron, linear networks, energies, and backprop at rest."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import autograd
from streams import DOUBLE
from worldsheet import streaming
from worldsheet.core.outcome import Status
from worldsheet.streaming import (
    ConstantFlip,
    Dense,
    Exponential,
    ForwardEuler,
    Functional,
    HamiltonianNetwork,
    Identity,
    NeuronModel,
    PhasePoint,
    Plain,
    Quadratic,
    Squared,
    Streams,
    Trace,
)

AT_REST = math.inf


def alone(**changes: Any) -> HamiltonianNetwork:
    """One linear neuron that listens to itself with weight ½, q = 2, θ = 3, c = 5."""
    settings: dict[str, Any] = {
        "model": NeuronModel(5.0, Identity(), bias=False),
        "functional": Functional(Squared(2.0), mass=AT_REST, dissipation=3.0),
        "dtype": DOUBLE,
    }
    network = HamiltonianNetwork(Dense(1, self_loops=True), [0], **{**settings, **changes})
    network.point = PhasePoint(*(torch.full_like(field, 0.5) for field in network.point))
    return network


@pytest.mark.parametrize("dt", [0.001, 0.01, 1.0])
def test_a_state_without_parents_decays_exactly(dt: float) -> None:
    network = alone()
    network.point = network.point._replace(weights=torch.zeros(1, 1, dtype=DOUBLE))
    for _ in range(7):
        network.step(None, None, dt)
    assert float(network.output) == pytest.approx(0.5 * math.exp(-5 * 7 * dt), rel=1e-13)
    assert float(network.point.costate) == pytest.approx(0.5 * math.exp(-8 * 7 * dt), rel=1e-13)


@pytest.mark.parametrize("integrator", [ForwardEuler(), Exponential()])
def test_errors_of_a_linear_neuron_shrink_in_proportion_to_the_step(integrator: streaming.NeuronIntegrator) -> None:
    # ẋ = −c(1 − w) x, and with λ = θ + c(1 − w): π̇ = −λ π + q x
    a, decay = 5 * 0.5, 3 + 5 * 0.5
    exact = 0.5 * math.exp(-decay) + 2 * 0.5 * (math.exp(-a) - math.exp(-decay)) / (decay - a)
    errors = []
    for dt in (0.04, 0.02, 0.01):
        network = alone(integrator=integrator)
        for _ in range(round(1 / dt)):
            network.step(None, torch.zeros(1, 1, dtype=DOUBLE), dt)
        errors.append(float(network.point.costate) - exact)
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.15)


def test_the_plain_equations_keep_their_energy_up_to_the_step() -> None:
    drifts = []
    for dt in (0.02, 0.01, 0.005):
        network = HamiltonianNetwork(
            Dense(3),
            [0],
            model=NeuronModel(2.0),
            functional=Functional(Squared(1.0), Quadratic(0.3, 0.2), mass=1.0, dissipation=0.0),
            sign=Plain(),
            integrator=ForwardEuler(),
            dtype=DOUBLE,
        )
        trace = Trace()
        target = torch.full((1, 1), 0.4, dtype=DOUBLE)
        network.run([(None, target)] * round(0.5 / dt), dt, trace)
        drifts.append(float(trace.hamiltonians[-1] - trace.hamiltonians[0]))
        assert float(trace.lagrangians[-1]) > 1  # far from where it began: what is kept is kept in motion
    assert abs(drifts[-1]) < 0.05
    assert drifts[0] / drifts[1] == pytest.approx(2, abs=0.1)
    assert drifts[1] / drifts[2] == pytest.approx(2, abs=0.1)


def test_flipped_costates_decay_and_plain_ones_grow_at_their_rates() -> None:
    for sign, rate in ((ConstantFlip(), -(3 + 2.5)), (Plain(), -3 + 2.5)):
        network = alone(sign=sign)
        network.point = network.point._replace(state=torch.zeros(1, 1, dtype=DOUBLE))
        for _ in range(100):
            network.step(None, torch.zeros(1, 1, dtype=DOUBLE), 0.01)
        assert float(network.point.costate) == pytest.approx(0.5 * math.exp(rate), rel=0.1)


def layers(widths: list[int], network: HamiltonianNetwork) -> nn.Sequential:
    """The same layered network as torch modules."""
    graph, first, modules = network.graph, 0, []
    weights = torch.zeros(graph.neurons, graph.neurons, dtype=DOUBLE)
    weights[graph.targets, graph.sources] = network.point.weights
    for below, above in pairwise(widths):
        linear = nn.Linear(below, above, dtype=DOUBLE)
        rows = slice(first + below, first + below + above)
        linear.weight.data, linear.bias.data = weights[rows, first : first + below], weights[rows, -1]
        modules += [linear, nn.Tanh()]
        first += below
    return nn.Sequential(*modules)


def settled(
    widths: list[int], speed: float, theta: float, dt: float, steps: int
) -> tuple[HamiltonianNetwork, dict[str, Tensor]]:
    """A layered network with resting weights after hearing the same instant `steps` times, and autograd's gradients."""
    graph = streaming.layered(widths)
    network = HamiltonianNetwork(
        graph,
        range(graph.neurons - widths[-1], graph.neurons),
        range(widths[0]),
        model=NeuronModel(speed),
        functional=Functional(mass=AT_REST, dissipation=theta),
        streams=Streams(2),
        dtype=DOUBLE,
    )
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(2, width, dtype=DOUBLE, generator=generator) for width in (widths[0], widths[-1]))
    module = layers(widths, network)
    for _ in range(steps):
        network.step(x, y, dt)
    return network, autograd(module, lambda out, target: (out - target).square().sum() / 2, x, y)


def by_layer(widths: list[int], network: HamiltonianNetwork) -> dict[str, Tensor]:
    """The network's efforts as gradients of those modules."""
    graph = network.graph
    efforts = torch.zeros(graph.neurons, graph.neurons, dtype=DOUBLE)
    efforts[graph.targets, graph.sources] = network.effort
    found, first = {}, 0
    for number, (below, above) in enumerate(pairwise(widths)):
        rows = slice(first + below, first + below + above)
        found[f"{2 * number}.weight"] = efforts[rows, first : first + below]
        found[f"{2 * number}.bias"] = efforts[rows, -1]
        first += below
    return found


@pytest.mark.parametrize(("speed", "theta"), [(5.0, 2.0), (50.0, 20.0), (20.0, 0.0)])
def test_at_rest_each_layer_feels_the_gradient_times_its_discount(speed: float, theta: float) -> None:
    widths = [3, 4, 4, 2]
    network, exact = settled(widths, speed, theta, dt=2 / speed, steps=60)
    for name, effort in by_layer(widths, network).items():
        above = len(widths) - 1 - int(name[0]) // 2
        expected = exact[name] * (speed / (speed + theta)) ** above
        assert float((effort - expected).norm()) < 1e-9 * float(exact[name].norm())


def test_at_infinite_speed_one_step_is_one_tick_of_unit_rate() -> None:
    widths = [3, 4, 4, 2]
    network, exact = settled(widths, 1e6, 0.0, dt=1.0, steps=2 * (len(widths) - 1))
    assert all(
        torch.allclose(effort, exact[name], rtol=1e-9, atol=0) for name, effort in by_layer(widths, network).items()
    )
    early, _ = settled(widths, 1e6, 0.0, dt=1.0, steps=len(widths) - 1)
    assert not torch.allclose(by_layer(widths, early)["0.weight"], exact["0.weight"], rtol=1e-3)


def test_the_plain_equations_report_that_they_are_unstable() -> None:
    network = HamiltonianNetwork(Dense(5), [0], sign=Plain(), functional=Functional(dissipation=1.0))
    outcome = network.run([(None, torch.full((1, 1), 0.3))] * 3000, 0.01)
    assert outcome.status is Status.DIVERGED
    assert outcome.ticks < 3000
    assert "ConstantFlip" in outcome.remedy
    flipped = HamiltonianNetwork(Dense(5), [0], functional=Functional(dissipation=1.0, mass=0.1))
    assert flipped.run([(None, torch.full((1, 1), 0.3))] * 300, 0.01).status is Status.ENDED

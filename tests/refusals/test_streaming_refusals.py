"""What a network in real time refuses, and what it does about holes in its stream."""

import math
from collections.abc import Callable
from typing import Any

import networkx
import pytest
import torch

import worldsheet as ws
from nets import assert_tells
from streams import DOUBLE
from worldsheet import streaming
from worldsheet.core.outcome import Status
from worldsheet.streaming import (
    CrossEntropy,
    Custom,
    Dense,
    ForwardEuler,
    Functional,
    HamiltonianNetwork,
    MissingValues,
    NeuronModel,
    PeriodicFlip,
    Quadratic,
    Snapshot,
    Sparse,
    Squared,
    Streams,
    Trace,
    TrackFlip,
)

NAN, INF = math.nan, math.inf


def edges(*pairs: tuple[int, int], neurons: int = 4, self_loops: bool = False) -> Sparse:
    sources, targets = torch.tensor(pairs).T
    return Sparse(neurons, sources, targets, self_loops=self_loops)


REFUSED: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "loop": (lambda: edges((0, 1), (2, 2)), ("neuron 2 has an edge to itself", "self_loops=True")),
    "twice": (lambda: edges((0, 1), (0, 1)), ("0 → 1", "twice")),
    "absent": (lambda: edges((0, 7)), ("neuron 7", "0 to 3")),
    "negative": (lambda: edges((-1, 2)), ("neuron -1",)),
    "none": (lambda: Sparse(3, torch.zeros(0).long(), torch.zeros(0).long()), ("at least one edge",)),
    "layers": (lambda: streaming.layered([3]), ("widths must be two or more positive numbers, got [3]",)),
    "degree": (
        lambda: streaming.random(5, 5, torch.Generator()),
        ("degree must be between 1 and 4 for so many neurons, got 5",),
    ),
    "ring": (lambda: streaming.small_world(9, 5, 0.1, torch.Generator()), ("1 to 4",)),
    "matrix": (lambda: streaming.from_matrix(torch.ones(2, 3)), ("(2, 3)", "(n, n)")),
    "matrix-loop": (lambda: streaming.from_matrix(torch.ones(2, 2)), ("neuron 0 has an edge to itself",)),
    "graph": (lambda: streaming.from_networkx([1, 2]), ("must be a networkx graph, got an object of type list",)),
    "nx-loop": (lambda: streaming.from_networkx(networkx.DiGraph([(0, 1), (1, 1)])), ("self-loop",)),
    "memory-euler": (
        lambda: HamiltonianNetwork(Dense(3), [0], memory=streaming.SenderMemory(), integrator=ForwardEuler()),
        ("one field after the other", "got ForwardEuler", "integrator=Exponential()"),
    ),
    "scaled-euler": (
        lambda: HamiltonianNetwork(Dense(3), [0], port=streaming.RmsScaled(0.1), integrator=ForwardEuler()),
        ("with RmsScaled", "got ForwardEuler"),
    ),
    "scaled-sign": (
        lambda: HamiltonianNetwork(Dense(3), [0], port=streaming.RmsScaled(0.1), sign=streaming.Plain()),
        ("no sign of time to flip, got Plain", "ConstantFlip()"),
    ),
    "scaled-rate": (lambda: streaming.RmsScaled(-1.0), ("rate must be positive and finite, got -1.0",)),
    "many-speeds": (
        lambda: HamiltonianNetwork(
            Dense(20), [0], model=NeuronModel(1 + torch.arange(20.0)), memory=streaming.SenderMemory()
        ),
        ("the neurons have 20 different ones", "SpeedClasses", "EdgeMemory()"),
    ),
    "classes": (lambda: streaming.SpeedClasses(3.0, 1.0), ("slow must be positive and below fast", "slow=3.0")),
    "no-output": (lambda: HamiltonianNetwork(Dense(3), []), ("at least one output",)),
    "output-twice": (lambda: HamiltonianNetwork(Dense(3), [0, 0]), ("no neuron named twice",)),
    "input-is-output": (lambda: HamiltonianNetwork(Dense(3), [0], [0]), ("no neuron named twice",)),
    "output-absent": (lambda: HamiltonianNetwork(Dense(3), [3]), ("leave out neuron 3, which is not there",)),
    "output-deaf": (lambda: HamiltonianNetwork(edges((0, 1)), [0]), ("output neuron 0 has no incoming edge",)),
    "disconnected": (lambda: HamiltonianNetwork(edges((0, 1), (2, 3)), [3], [0]), ("no path", "output 3")),
    "speed": (lambda: NeuronModel(speed=0.0), ("NeuronModel: speed must be positive and finite, got 0.0",)),
    "speeds": (lambda: HamiltonianNetwork(Dense(3), [0], model=NeuronModel(torch.ones(2))), ("each of 3 neurons",)),
    "mass": (lambda: Functional(mass=NAN), ("mass must be positive, got nan", "math.inf")),
    "dissipation": (lambda: Functional(dissipation=-1.0), ("dissipation must be finite and not negative, got -1.0",)),
    "weight": (lambda: Squared(0.0), ("Squared: weight must be a positive finite number, got 0.0",)),
    "gain": (lambda: CrossEntropy(gain=-1.0), ("CrossEntropy: gain must be a positive finite number, got -1.0",)),
    "regulariser": (lambda: Quadratic(weights=-0.1), ("weights=-0.1",)),
    "period": (lambda: PeriodicFlip(0.0), ("period=0.0",)),
    "track": (lambda: streaming.hamiltonian_within(1.0, 0.0), ("low must not be above high, got low=1.0, high=0.0",)),
    "radius": (lambda: streaming.costate_within(NAN), ("radius must not be negative, got nan",)),
    "streams": (lambda: Streams(0), ("Streams: count must be at least 1, got 0",)),
    "never": (lambda: streaming.Exponential(every=0), ("every must be at least 1, got 0",)),
    "trace": (lambda: Trace(0), ("Trace: every must be at least 1, got 0",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_with_a_way_out(name: str) -> None:
    build, fragments = REFUSED[name]
    with pytest.raises(ws.errors.InputError) as caught:
        build()
    assert_tells(caught.value, *fragments)


def network(**changes: Any) -> HamiltonianNetwork:
    return HamiltonianNetwork(Dense(4), [0, 1], [3], dtype=DOUBLE, **changes)


@pytest.mark.parametrize(
    ("input", "target", "dt", "fragments"),
    [
        (torch.zeros(1), torch.zeros(1, 2), 0.01, ("got shape (1,)", "(1, 1)", "input[None]")),
        (None, torch.zeros(1, 2), 0.01, ("1 input neurons, got None",)),
        (torch.zeros(1, 1), torch.zeros(1, 3), 0.01, ("(1, 3)", "(1, 2)")),
        (torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), 0.01, ("floating-point",)),
        (torch.zeros(1, 1), torch.zeros(1, 2), 0.0, ("dt must be positive and finite, got 0.0",)),
        (torch.zeros(1, 1), torch.zeros(1, 2), NAN, ("dt must be positive and finite, got nan",)),
    ],
)
def test_a_step_checks_what_it_hears(
    input: torch.Tensor | None, target: torch.Tensor, dt: float, fragments: tuple[str, ...]
) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        network().step(input, target, dt)
    assert_tells(caught.value, *fragments)


def test_classes_are_checked() -> None:
    def with_loss(target: torch.Tensor) -> None:
        network(functional=Functional(CrossEntropy())).step(torch.zeros(1, 1), target, 0.01)

    for target, fragment in ((torch.tensor([2]), "class 2"), (torch.zeros(1), "whole numbers")):
        with pytest.raises(ws.errors.InputError) as caught:
            with_loss(target)
        assert_tells(caught.value, fragment)


def test_a_potential_must_tell_streams_apart() -> None:
    summed = network(functional=Functional(Custom(lambda output, target: (output - target).square().sum())))
    with pytest.raises(ws.errors.InputError) as caught:
        summed.step(torch.zeros(1, 1), torch.zeros(1, 2), 0.01)
    assert_tells(caught.value, "one number per stream")


def test_an_unstable_step_is_refused_with_its_bound() -> None:
    stiff = network(model=NeuronModel(180.0), integrator=ForwardEuler())
    stiff.step(torch.zeros(1, 1), torch.zeros(1, 2), 0.0099)
    with pytest.raises(ws.errors.InputError) as caught:
        stiff.step(torch.zeros(1, 1), torch.zeros(1, 2), 0.0101)
    assert_tells(caught.value, "dt must be below 0.01", "c + θ", "Exponential()")
    network(model=NeuronModel(180.0)).step(torch.zeros(1, 1), torch.zeros(1, 2), 10.0)
    seldom = network(model=NeuronModel(1.0), integrator=ForwardEuler(every=50))
    with pytest.raises(ws.errors.InputError) as caught:
        seldom.step(torch.zeros(1, 1), torch.zeros(1, 2), 0.0021)  # 50 dt θ is above 2, dt (c + θ) is not
    assert_tells(caught.value, "dt must be below 0.002")


@pytest.mark.parametrize("hole", [NAN, INF, -INF])
def test_an_unknown_target_teaches_nothing_and_an_unknown_input_keeps_its_value(hole: float) -> None:
    holed, told = network(streams=Streams(2)), network(streams=Streams(2))
    for each in (holed, told):
        each.step(torch.tensor([[0.3], [0.7]], dtype=DOUBLE), torch.full((2, 2), 0.5), 0.01)
    lossless = holed.step(
        torch.tensor([[0.1], [hole]], dtype=DOUBLE), torch.tensor([[0.2, 0.4], [0.9, hole]], dtype=DOUBLE), 0.01
    )
    output = told.listen(torch.tensor([[0.1], [0.7]], dtype=DOUBLE), 0.01)  # where the second stream goes by itself
    assert torch.equal(lossless.output, output)
    assert lossless.loss is not None
    assert float(lossless.loss[1]) == 0
    assert float(lossless.loss[0]) == pytest.approx(float((output[0] - torch.tensor([0.2, 0.4])).square().sum() / 2))
    alone = network(streams=Streams(2))
    alone.step(torch.tensor([[0.3], [0.7]], dtype=DOUBLE), torch.full((2, 2), 0.5), 0.01)
    agreeing = torch.stack([torch.tensor([0.2, 0.4], dtype=DOUBLE), output[1]])  # no error in the second stream
    alone.step(torch.tensor([[0.1], [0.7]], dtype=DOUBLE), agreeing, 0.01)
    for mine, theirs in zip(holed.point, alone.point, strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-15)


def test_an_unknown_class_teaches_nothing() -> None:
    functional = Functional(CrossEntropy(gain=2.0))
    unknown, silent = network(functional=functional), network(functional=functional)
    unknown.step(torch.zeros(1, 1), torch.tensor([-1]), 0.01)
    silent.step(torch.zeros(1, 1), None, 0.01)
    for mine, theirs in zip(unknown.point, silent.point, strict=True):
        assert torch.equal(mine, theirs)


def test_a_stream_with_holes_stops_if_it_is_asked_to() -> None:
    strict = network(streams=Streams(missing=MissingValues.STOP))
    good, bad = (torch.zeros(1, 1), torch.zeros(1, 2)), (torch.zeros(1, 1), torch.tensor([[0.0, NAN]]))
    outcome = strict.run([good, good, bad, good], 0.01)
    assert (outcome.status, outcome.ticks) == (Status.STOPPED, 2)
    assert "NaN" in outcome.remedy
    assert strict.finite
    with pytest.raises(ws.errors.InputError) as caught:
        strict.step(*bad, 0.01)
    assert_tells(caught.value, "target", "MissingValues.SKIP")
    loose = network()
    assert loose.run([good, good, bad, good], 0.01).status is Status.ENDED
    assert loose.steps == 4


def test_weights_that_move_too_fast_end_a_run_with_an_outcome() -> None:
    wild = network(functional=Functional(Squared(1e6), Quadratic(weights=1e4), mass=1e-6, dissipation=0.1))
    outcome = wild.run([(torch.ones(1, 1), torch.ones(1, 2))] * 500, 0.05)
    assert outcome.status is Status.DIVERGED
    assert "mass" in outcome.remedy


def test_a_saved_network_fits_only_its_like() -> None:
    saved = network().state_dict()
    with pytest.raises(ws.errors.InputError) as caught:
        HamiltonianNetwork(Dense(5), [0], dtype=DOUBLE).load_state_dict(saved)
    assert_tells(caught.value, "state of shape", "build the same network")
    with pytest.raises(ws.errors.InputError):
        network().load_state_dict({name: value for name, value in saved.items() if name != "momentum"})


def test_energies_of_a_moment_are_not_told_from_weights_that_have_moved_on() -> None:
    seen: list[Snapshot] = []

    def keep(moment: Snapshot) -> torch.Tensor:
        seen.append(moment)
        return moment.costate_norm < 1

    network(sign=TrackFlip(keep)).step(torch.zeros(1, 1), torch.ones(1, 2), 0.01)
    with pytest.raises(ws.errors.InputError) as caught:
        _ = seen[0].hamiltonian
    assert_tells(caught.value, "t = 0", "record=True", "Trace")


def test_a_trace_does_not_record_steps_without_energies() -> None:
    trace, moving = Trace(every=2), network()
    trace.add(moving.step(torch.zeros(1, 1), torch.ones(1, 2), 0.01, record=trace.due))
    trace.add(moving.step(torch.zeros(1, 1), torch.ones(1, 2), 0.01, record=trace.due))  # not its turn
    assert len(trace.times) == 1
    with pytest.raises(ws.errors.InputError) as caught:
        trace.add(moving.step(torch.zeros(1, 1), torch.ones(1, 2), 0.01))
    assert_tells(caught.value, "no energies", "record=True", "trace.due")

"""A point in phase space, and what can be said of it: energy, action, size."""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.words import number_of, shape_of
from worldsheet.streaming.functional import Functional
from worldsheet.streaming.io import Target
from worldsheet.streaming.shapes import Edges, Eligibility, Neurons, PerStream, PerSystem


class PhasePoint(NamedTuple):
    """All that a network knows at an instant; nothing of the past is kept anywhere else.

    Costates are normalised, π = p/φ with φ = e^{θt}, so that they do not overflow with time.

    Attributes:
        state: x, of shape (streams, neurons).
        costate: π, the same shape; c_i π_i is what backpropagation calls the adjoint of neuron i.
        weights: w, one number per edge; with the streams in front where each has its own.
        momentum: π_w, the same shape.
    """

    state: Neurons
    costate: Neurons
    weights: Edges
    momentum: Edges

    def __repr__(self) -> str:
        return f"PhasePoint: states {shape_of(self.state)}, weights {shape_of(self.weights)}, and as many costates"


class EdgeState(NamedTuple):
    """What edges keep beside the point in phase space, without entries where they keep nothing.

    Attributes:
        traces: of a `Memory`: (classes, streams, neurons) of senders, or the streams in front of the edges.
        squares: running means of squared efforts, in the shape of the weights.
        averaged: how much of the past the momenta and the squares of a port hold, from 0 to 1: (2,), on the CPU.
    """

    traces: Eligibility
    squares: Edges
    averaged: Tensor

    def __repr__(self) -> str:
        return f"EdgeState: traces {shape_of(self.traces)}, squares {shape_of(self.squares)}"


class Energies(NamedTuple):
    """What a step began with, divided by φ: one number per system, which is all streams where they share their weights.

    Attributes:
        potential: V + R.
        kinetic: m/2 |ẇ|² = |π_w|²/2m.
        lagrangian: m/2 |ẇ|² + V + R.
        hamiltonian: V + R + π · ẋ − |π_w|²/2m.
        costate_norm: ‖(π, π_w)‖.
    """

    potential: PerSystem
    kinetic: PerSystem
    lagrangian: PerSystem
    hamiltonian: PerSystem
    costate_norm: PerSystem

    def __repr__(self) -> str:
        return ", ".join(f"{name} {number_of(value)}" for name, value in self._asdict().items())


@final
class Snapshot:
    """A point in phase space at the beginning of a step, as a sign policy sees it.

    Each number is computed when it is asked for, once, with a pass over the edges: most policies and steps need none.
    """

    def __init__(
        self,
        time: float,
        point: PhasePoint,
        velocity: Callable[[], Neurons],
        wanted: Target,
        functional: Functional,
        shared: bool,
    ) -> None:
        self.time = time
        self._point: PhasePoint | None = point
        self._squared: tuple[PerSystem, PerSystem] | None = None
        self._velocity = velocity
        self._wanted = wanted
        self._functional = functional
        self._shared = shared

    @property
    def point(self) -> PhasePoint:
        """Where the systems are; these tensors move with the network.

        Raises:
            InputError: the step has been taken.
        """
        if self._point is None:
            raise InputError(
                f"the network has moved on since t = {self.time:g}, the moment that is looked at",
                "a moment while its step is taken: its tensors are the network's own",
                "take the step with record=True, record with a Trace, or clone what is to be kept",
            )
        return self._point

    @property
    def hamiltonian(self) -> PerSystem:
        """H/φ = V + R + π · ẋ − |π_w|²/2m."""
        work = (self.point.costate * self._velocity()).sum(1)
        return self._potential() + self._per_system(work) - self._kinetic()

    @property
    def costate_norm(self) -> PerSystem:
        """‖(π, π_w)‖."""
        return (self._per_system(self.point.costate.square().sum(1)) + self._squares()[1]).sqrt()

    def energies(self) -> Energies:
        """All of them."""
        potential, kinetic = self._potential(), self._kinetic()
        return Energies(potential, kinetic, kinetic + potential, self.hamiltonian, self.costate_norm)

    def close(self) -> None:
        """The network is about to move."""
        self._point = None

    def _potential(self) -> PerSystem:
        regulariser, state = self._functional.regulariser, self.point.state
        loss = self._wanted.read(state).loss
        states = regulariser.of_states(state)
        weights, _ = self._squares()
        return self._per_system(states if loss is None else states + loss) + regulariser.of_weights(weights)

    def _kinetic(self) -> PerSystem:
        return self._squares()[1] / (2 * self._functional.mass)

    def _squares(self) -> tuple[PerSystem, PerSystem]:
        """Σ w² and Σ π_w², one pass over the edges each, once."""
        if self._squared is None:
            weights, momentum = self.point[2:]
            self._squared = self._summed(weights), self._summed(momentum)
        return self._squared

    def _summed(self, values: Edges) -> PerSystem:
        rows = values.view(1, -1) if self._shared else values.flatten(1)
        squares: PerSystem = torch.linalg.vecdot(rows, rows)
        return squares

    def _per_system(self, values: PerStream) -> PerSystem:
        return values.sum()[None] if self._shared else values


def is_finite(point: PhasePoint, edges: EdgeState) -> bool:
    """Whether every number of a point and of what edges keep is a number."""
    return all(bool(torch.isfinite(values).all()) for values in (*point, *edges))


def as_tensors(point: PhasePoint, edges: EdgeState) -> dict[str, Tensor]:
    """The fields by name; of what edges keep, those that have entries."""
    return {**point._asdict(), **{name: values for name, values in edges._asdict().items() if values.numel()}}

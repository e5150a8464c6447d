"""A point in phase space, and what can be said of it: energy, action, size."""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.functional import Functional
from worldsheet.streaming.io import Target
from worldsheet.streaming.shapes import Edges, Neurons, PerStream, PerSystem


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


@final
class Snapshot:
    """A point in phase space at an instant, looked at before it moves.

    Energies are divided by φ: one number per system, which is all streams together where they share their weights. They
    are worked out when they are asked for, which is possible until the edges move: until the next step.
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
        self._state, self._costate = point.state, point.costate
        self._velocity = velocity
        self._lesson = wanted
        self._functional = functional
        self._shared = shared

    @property
    def point(self) -> PhasePoint:
        """Where the systems are; these tensors move with the network.

        Raises:
            InputError: the next step has been taken.
        """
        if self._point is None:
            raise InputError(
                f"a look at t = {self.time:g} after the network went on",
                "a moment until the next step: its edges are the network's own, which moves them",
                "ask for energies right after the step, record them with a Trace, or clone what is to be kept",
            )
        return self._point

    @property
    def potential(self) -> PerSystem:
        """V + R."""
        regulariser = self._functional.regulariser
        loss = self._lesson.read(self._state).loss
        states = regulariser.of_states(self._state)
        weights, _ = self._squares()
        return self._per_system(states if loss is None else states + loss) + regulariser.of_weights(weights)

    @property
    def kinetic(self) -> PerSystem:
        """m/2 |ẇ|² = |π_w|²/2m."""
        return self._squares()[1] / (2 * self._functional.mass)

    @property
    def lagrangian(self) -> PerSystem:
        """m/2 |ẇ|² + V + R."""
        return self.kinetic + self.potential

    @property
    def hamiltonian(self) -> PerSystem:
        """V + R + π · ẋ − |π_w|²/2m."""
        work = (self._costate * self._velocity()).sum(1)
        return self.potential + self._per_system(work) - self.kinetic

    @property
    def costate_norm(self) -> PerSystem:
        """‖(π, π_w)‖."""
        return (self._per_system(self._costate.square().sum(1)) + self._squares()[1]).sqrt()

    def invalidate(self, *, remembered: bool) -> None:
        """The edges are about to move: keep their sums of squares if they are to be remembered."""
        if remembered:
            self._squares()
        self._point = None

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


def is_finite(point: PhasePoint) -> bool:
    """Whether every number of a point is a number."""
    return all(bool(torch.isfinite(values).all()) for values in point)


def as_tensors(point: PhasePoint) -> dict[str, Tensor]:
    """The fields by name."""
    return dict(point._asdict())

"""A point in phase space, and what can be said of it: energy, action, size."""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.streaming.ears import Lesson
from worldsheet.streaming.functional import Functional
from worldsheet.streaming.shapes import Edges, Neurons, PerStream, PerSystem
from worldsheet.streaming.sign import Watched


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
class Moment(Watched):
    """A point in phase space at an instant, looked at before it moves.

    Energies are divided by φ: one number per system, which is all streams together where they share their weights.
    """

    def __init__(
        self,
        time: float,
        point: PhasePoint,
        velocity: Callable[[], Neurons],
        lesson: Lesson,
        functional: Functional,
        shared: bool,
    ) -> None:
        self.time = time
        self.point = point
        self._velocity = velocity
        self._lesson = lesson
        self._functional = functional
        self._shared = shared

    @property
    def potential(self) -> PerSystem:
        """V + R."""
        regulariser = self._functional.regulariser
        loss = self._lesson.read(self.point.state).loss
        states = regulariser.of_states(self.point.state)
        return self._per_system(states if loss is None else states + loss) + regulariser.of_weights(
            self._squares(self.point.weights)
        )

    @property
    def kinetic(self) -> PerSystem:
        """m/2 |ẇ|² = |π_w|²/2m."""
        return self._squares(self.point.momentum) / (2 * self._functional.mass)

    @property
    def lagrangian(self) -> PerSystem:
        """m/2 |ẇ|² + V + R."""
        return self.kinetic + self.potential

    @property
    def hamiltonian(self) -> PerSystem:
        """V + R + π · ẋ − |π_w|²/2m."""
        work = (self.point.costate * self._velocity()).sum(1)
        return self.potential + self._per_system(work) - self.kinetic

    @property
    def costate_norm(self) -> PerSystem:
        """‖(π, π_w)‖."""
        return (self._per_system(self.point.costate.square().sum(1)) + self._squares(self.point.momentum)).sqrt()

    def _squares(self, values: Edges) -> PerSystem:
        return values.square().sum()[None] if self._shared else values.flatten(1).square().sum(1)

    def _per_system(self, values: PerStream) -> PerSystem:
        return values.sum()[None] if self._shared else values


def is_finite(point: PhasePoint) -> bool:
    """Whether every number of a point is a number."""
    return all(bool(torch.isfinite(values).all()) for values in point)


def as_tensors(point: PhasePoint) -> dict[str, Tensor]:
    """The fields by name."""
    return dict(point._asdict())

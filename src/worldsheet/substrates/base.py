"""A dynamics on an imperfect substrate: the same law of motion, on messages that are not what was sent."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import final

from torch import Tensor
from typing_extensions import override

from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, Field, State
from worldsheet.dynamics import Character, Dynamics
from worldsheet.dynamics.spectrum import Operator
from worldsheet.problem import Linearised, View


@dataclass(frozen=True)
class Substrate(Dynamics):
    """Moves as another dynamics does, on what the substrate makes of the messages and of the moves.

    Substrates compose: `Noisy(Quantised(Wave(), bits=8), std=0.1, generator=g)` rounds what has noise on it. A message
    is spoilt anew for each move that reads it and for each credit made from it. Efforts (4) multiply the layer's own
    states and the credit. Residuals are measured on the true fields.

    Args:
        inner: the dynamics that decides the moves.
    """

    inner: Dynamics

    @abstractmethod
    def arrived(self, message: AnyState, view: View) -> AnyState:
        """What arrives of a message, from below or from above."""

    def moved(self, after: AnyState, field: Field, view: View) -> AnyState:
        """What comes of a move that was meant to end at `after`."""
        return after

    def state(self, view: View) -> State:
        """The inner move, on what arrived."""
        return self.moved(self.inner.state(_Received(self, view)), Field.STATE, view)

    def costate(self, view: View) -> Costate:
        """The inner move, on what arrived."""
        return self.moved(self.inner.costate(_Received(self, view)), Field.COSTATE, view)

    def credit(self, view: View) -> Costate:
        """What the inner dynamics pulls back, made of what arrived."""
        return self.inner.credit(_Received(self, view))

    @property
    def character(self) -> Character:
        """As the inner dynamics, save that what is spoilt may move sites before credit arrives."""
        return replace(self.inner.character, descends=False, growth=inf)

    @override
    def fit(self, depth: int) -> None:
        self.inner.fit(depth)

    @override
    def start(self, outputs: Sequence[AnyState]) -> Fields:
        return self.inner.start(outputs)

    @property
    @override
    def counts_positions(self) -> bool:
        return self.inner.counts_positions

    def averaging_over(self, positions: float) -> Dynamics:
        """The inner dynamics for such a loss, on the same substrate."""
        return replace(self, inner=self.inner.averaging_over(positions))

    @property
    @override
    def automatic(self) -> bool:
        return self.inner.automatic

    def calibrated(self, linearised: Linearised) -> Dynamics:
        """The inner dynamics calibrated, on the same substrate."""
        return replace(self, inner=self.inner.calibrated(linearised))

    @override
    def stiffness(self, linearised: Linearised) -> Operator | None:
        return self.inner.stiffness(linearised)

    def with_step(self, rate: float) -> Dynamics:
        """The inner dynamics with this step, on the same substrate."""
        return replace(self, inner=self.inner.with_step(rate))

    @property
    @override
    def settles_at_once(self) -> bool:
        return self.inner.settles_at_once

    def tolerance(self, precision: float) -> float | None:
        """As the inner dynamics, whose residuals a substrate may keep from ever getting there."""
        return self.inner.tolerance(precision)

    @override
    def budget(self, depth: int) -> int:
        return self.inner.budget(depth)

    @override
    def default_budget(self, depth: int) -> int:
        return self.inner.default_budget(depth)


@final
class _Received(View):
    """A site's view through its substrate; within one move a message is read once."""

    __slots__ = ("_prediction", "_pulled", "_substrate", "_view")

    def __init__(self, substrate: Substrate, view: View) -> None:
        self._substrate = substrate
        self._view = view
        self._prediction: Tensor | None = None
        self._pulled: Tensor | None = None

    @property
    def state(self) -> State:
        return self._view.state

    @property
    def costate(self) -> Costate:
        return self._view.costate

    @property
    def prediction(self) -> State:
        if self._prediction is None:
            self._prediction = self._substrate.arrived(self._view.prediction, self._view)
        return self._prediction

    @property
    def pulled(self) -> Costate:
        if self._pulled is None:
            self._pulled = self._substrate.arrived(self._view.pulled, self._view)
        return self._pulled

    @property
    def state_residual(self) -> State:
        return self.prediction - self.state

    @property
    def credit(self) -> Costate:
        return self._substrate.inner.credit(self)

    @property
    def samples(self) -> int:
        return self._view.samples

    @property
    def at_output(self) -> bool:
        return self._view.at_output

    def own(self, values: Sequence[float]) -> float | Tensor:
        return self._view.own(values)

    def absorbed(self, point: State, step: float) -> State:
        return self._view.absorbed(point, step)

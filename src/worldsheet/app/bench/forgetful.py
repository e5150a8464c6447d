"""The literal relaxation, in which nothing is remembered from one tick to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from worldsheet.core.shapes import Costate, Elsewhere, State
from worldsheet.dynamics import Character, Dynamics
from worldsheet.problem import Fields, Linearised, View


@final
@dataclass(frozen=True)
class Forgetful(Dynamics):
    """Moves as another dynamics does, but into new memory, so that no message is recognised as one already sent.

    The engine knows a message by the tensors it was made from. On `Synchronous` every tick therefore evaluates and
    pulls back every layer again, settled or not: L layers in each of 2L ticks, and once more at the end, when the
    parameters are read. Only layer 1 is evaluated a single time, since the input it reads is clamped and no field:
    (L − 1)(2L + 1) + 1 = 2L·L − L evaluations in all, where `Wavefront` makes L.

    Args:
        inner: the dynamics that decides the move.
    """

    inner: Dynamics

    def state(self, view: View) -> State:
        """A copy of the inner move."""
        return self.inner.state(view).clone()

    def costate(self, view: View) -> Costate:
        """A copy of the inner move."""
        return self.inner.costate(view).clone()

    def credit(self, view: View) -> Costate:
        """What the inner dynamics pulls back."""
        return self.inner.credit(view)

    @property
    def character(self) -> Character:
        """As the inner dynamics."""
        return self.inner.character

    def start(self, outputs: Sequence[Elsewhere]) -> Fields:
        """As the inner dynamics."""
        return self.inner.start(outputs)

    @property
    def automatic(self) -> bool:
        """As the inner dynamics."""
        return self.inner.automatic

    def calibrated(self, linearised: Linearised) -> Dynamics:
        """The inner dynamics calibrated, as forgetful as before."""
        return Forgetful(self.inner.calibrated(linearised))

    @property
    def settles_at_once(self) -> bool:
        """As the inner dynamics."""
        return self.inner.settles_at_once

    def tolerance(self, precision: float) -> float | None:
        """As the inner dynamics."""
        return self.inner.tolerance(precision)

    def budget(self, depth: int) -> int:
        """As the inner dynamics."""
        return self.inner.budget(depth)

"""The literal relaxation, in which nothing is remembered from one tick to the next."""

from dataclasses import dataclass
from typing import final

from worldsheet.core.types import AnyState, Field
from worldsheet.problem import View
from worldsheet.substrates import Substrate


@final
@dataclass(frozen=True)
class Uncached(Substrate):
    """Moves as another dynamics does, but into new memory, so that no message is recognised as one already sent.

    The engine knows a message by the tensors it was made from. On `Synchronous` every tick therefore evaluates and
    pulls back every layer again, settled or not: L layers in each of 2L ticks, and once more at the end, when the
    parameters are read. Only layer 1 is evaluated a single time, since the input it reads is clamped and no field:
    (L − 1)(2L + 1) + 1 = 2L·L − L evaluations in all, where `Wavefront` makes L.

    Args:
        inner: the dynamics that decides the move.
    """

    def arrived(self, message: AnyState, view: View) -> AnyState:
        """The message as it is."""
        return message

    def moved(self, after: AnyState, field: Field, view: View) -> AnyState:
        """A copy of the inner move."""
        return after.clone()

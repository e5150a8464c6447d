"""When credit has arrived at the input side."""

from math import sqrt
from typing import final


@final
class Arrival:
    """Tells the front of a wave of credit by its slope, from the credits of the sites that read the input.

    A front that dispersion has smoothed has no edge; it is where it is steepest, so it has passed when credit has begun
    to rise more slowly than in the tick before. Credit below rounding's share of ∇C is no front.

    Args:
        precision: relative rounding of the fields.
    """

    def __init__(self, precision: float) -> None:
        self._floor = sqrt(precision)
        self._last = self._rise = 0.0

    def passed(self, credit: float, slope: float) -> bool:
        """Whether the front has passed, from ‖credit‖ at the input side and ‖∇C‖ after a tick."""
        rise = credit - self._last
        slows = rise < self._rise and credit > self._floor * slope
        self._last, self._rise = credit, rise
        return slows

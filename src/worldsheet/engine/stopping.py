"""When to stop."""

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import final

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.reading import read

_WATCHED = 3  # ticks over which growth is told


@final
@dataclass(frozen=True)
class Stop:
    """The end of a relaxation: whichever comes first of a budget, a tolerance and the arrival of credit.

    Args:
        max_ticks: budget in ticks; by default what an exact schedule needs, what the dynamics thinks generous where a
            tolerance is given, and else what training can afford.
        tol: stop, converged, when the residuals of all sites are at most this, ‖r_l‖/‖f_l(x_{l-1})‖ and
            ‖g_l‖/‖J_{l+1}ᵀλ_{l+1}‖; by default not measured where the schedule is exact or max_ticks is given, else
            what the dynamics can reach in the output's precision.
        every: ticks between measurements. One costs nothing where the next tick makes the same messages anyway.
        arrival: end when the front of credit has reached the sites that read the input, seen by the slope of their own
            credit: the budget that a dynamics needs which is good when credit has just crossed.

    Raises:
        InputError: a negative budget or tolerance, or `every` below 1.
    """

    max_ticks: int | None = None
    tol: float | None = None
    every: int = 1
    arrival: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _refuse_types(self.max_ticks, self.tol, self.every)
        if self.max_ticks is not None and self.max_ticks < 0:
            raise InputError(
                f"Stop: max_ticks must not be negative, got {self.max_ticks}",
                "0 or more ticks",
                "leave it out to get 2L ticks with Dyadic()",
            )
        if self.tol is not None and not self.tol >= 0:
            raise InputError(
                f"Stop: tol must not be negative, got {self.tol}",
                "a relative residual, 0 or more",
                "try tol=1e-6 in float32, 1e-12 in float64",
            )
        if self.every < 1:
            raise InputError(f"Stop: every must be at least 1, got {self.every}", "1 or more ticks", "use every=1")


def _refuse_types(max_ticks: object, tol: object, every: object) -> None:
    if isinstance(max_ticks, float) and 0 < max_ticks < 1:
        raise InputError(
            f"Stop: max_ticks must be a whole number, got {max_ticks}", "0 or more ticks", f"write tol={max_ticks}"
        )
    for name, value in (("max_ticks", max_ticks), ("every", every)):
        if not (value is None and name == "max_ticks") and (isinstance(value, bool) or not isinstance(value, int)):
            raise InputError(f"Stop: {name} must be a whole number, got {value!r}", "ticks", f"write {name}=20")
    if tol is not None and (isinstance(tol, bool) or not isinstance(tol, (int, float))):
        raise InputError(f"Stop: tol must be a number, got {tol!r}", "a relative residual, 0 or more", "write tol=1e-6")


@final
class GrowthDetector:
    """Tells from residuals that a step is too long for the layers.

    A step beyond what the layers' curvature allows lets one mode grow in each tick. While it grows, the last ticks tell
    it; where layers saturate, growth ends, and residuals are above those of the first tick, which no descent leaves
    behind. Norms are taken where the next tick makes the same messages anyway, and read at once at the end.

    Args:
        budget: ticks that there will be; fewer than six are too few to tell.
        limit: the factor a tick, over three at the end, that is too much; infinite to watch nothing.

    Attributes:
        ticks: after which of them the residual is wanted.
    """

    def __init__(self, budget: int, limit: float) -> None:
        ticks = (1, budget - 1 - _WATCHED, budget - 1)
        self.ticks = ticks if budget > _WATCHED + 2 and isfinite(limit) else ()
        self._limit = limit
        self._sizes: list[Tensor] = []

    def take(self, size: Tensor) -> None:
        """Remember a norm of all costate residuals, without reading it."""
        self._sizes.append(size)

    def told(self) -> str:
        """How they grew, in words, if they did as at no stable step; else nothing."""
        if len(self._sizes) < len(self.ticks) or not self.ticks:
            return ""
        first, early, last = read(self._sizes)
        factor, level = _ratio(last, early) ** (1 / _WATCHED), _ratio(last, first)
        if factor <= self._limit and level <= 1:
            return ""
        return f"residuals ended at {level:.3g} times those of the first tick and grew by {factor:.3g} a tick"


def _ratio(after: float, before: float) -> float:
    """0 where there was nothing, as where credit has not arrived."""
    return after / before if before > 0 else 0.0


@final
class FrontDetector:
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

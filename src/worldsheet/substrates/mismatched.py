"""Sites that are not alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, isfinite
from typing import Any, final

import torch
from torch import Generator

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState, Field
from worldsheet.problem import View
from worldsheet.substrates.base import Substrate


@final
@dataclass(frozen=True)
class Mismatched(Substrate):
    """Every site has an impedance of its own, z_l → m_l z_l with log m_l normal.

    A site's state moves m_l times too fast and its costate m_l times too slowly, as on a line whose capacitance is m_l
    times too small and whose inductance as much too large: the impedance is off and the speed of waves is not. For
    dynamics without impedance it is an error of the site's rates. Fixed points are where the inner dynamics has them.
    The errors are drawn once, as those of a device: site by site, in order, when first asked for.

    Args:
        inner: the dynamics that decides the moves.
        error: standard deviation of log m_l; 0.1 is a tenth.
        generator: draws the errors.

    Raises:
        InputError: a deviation that is negative or not finite.
    """

    error: float
    generator: Generator
    factors: "Factors | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no deviation."""
        if not (isfinite(self.error) and self.error >= 0):
            raise InputError(
                f"Mismatched: error must be finite and not negative, got {self.error}",
                "0 or a positive number",
                "use 0.1 for an error of a tenth",
            )
        if self.factors is None:
            object.__setattr__(self, "factors", Factors(self.error, self.generator))

    def arrived(self, message: AnyState, view: View) -> AnyState:
        """The message as it is."""
        return message

    def moved(self, after: AnyState, field: Field, view: View) -> AnyState:
        """m_l times the state's move, or a move of the costate divided by it."""
        if self.error == 0 or self.factors is None:
            return after
        factor = view.own(self.factors)
        if field is Field.STATE:
            return view.state + (after - view.state) * factor
        return view.costate + (after - view.costate) / factor

    @property
    def settles_at_once(self) -> bool:
        """Not where a move falls short or overshoots."""
        return self.inner.settles_at_once and self.error == 0


@final
class Factors(Sequence[float]):
    """m_l for site after site, drawn when first asked for.

    Args:
        error: standard deviation of log m_l.
        generator: draws them.
    """

    def __init__(self, error: float, generator: Generator) -> None:
        self._error = error
        self._generator = generator
        self._drawn: list[float] = []

    def __getitem__(self, index: int | slice) -> Any:
        last = index.stop if isinstance(index, slice) else index + 1
        while len(self._drawn) < last:
            normal = torch.randn((), generator=self._generator, dtype=torch.float64).item()
            self._drawn.append(exp(self._error * normal))
        return self._drawn[index]

    def __len__(self) -> int:
        return len(self._drawn)

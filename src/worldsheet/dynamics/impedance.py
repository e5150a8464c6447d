"""Impedances: how many states a costate is worth, site by site."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.problem import Linearised


class Impedance(ABC):
    """What a wave sees of a junction: z in a = x + zλ, b = x − zλ."""

    @abstractmethod
    def profile(self, linearised: Linearised) -> tuple[float, ...]:
        """z_l for the sites 1..L.

        Raises:
            InputError: an impedance that these layers cannot have.
        """


@final
@dataclass(frozen=True)
class Riccati(Impedance):
    """The matrix impedance of optimal control, λ = P x with P from the Riccati recursion: nothing is reflected."""

    def profile(self, linearised: Linearised) -> tuple[float, ...]:
        """Refused: a network has no running cost to make a Riccati matrix from."""
        raise InputError(
            "Wave(impedance=Riccati()) over the layers of a network",
            "a number, one number per layer, or Matched()",
            "leave impedance out; Riccati() is for worldsheet.control, whose running cost it is made from",
        )

"""Impedances: how many states a costate is worth, site by site."""

from abc import ABC
from dataclasses import dataclass
from typing import final


class Impedance(ABC):  # noqa: B024  kinds of impedance share what they are, not a method
    """What a wave sees of a junction: z in a = x + zλ, b = x − zλ."""


@final
@dataclass(frozen=True)
class Riccati(Impedance):
    """The matrix impedance of optimal control, λ = P x with P from the Riccati recursion: nothing is reflected."""

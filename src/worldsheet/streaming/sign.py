"""The sign of time for the costates: the plain equations, and the ways to flip it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.state import Snapshot

Sign: TypeAlias = float | Tensor
"""+1 or −1 for all systems, or one of them for each."""


class SignPolicy(ABC):
    """s(t) of the costates in (6): s = +1 are Hamilton's equations, unstable from initial data; s = −1 turns them."""

    @abstractmethod
    def sign(self, moment: Snapshot) -> Sign:
        """The sign s at this moment."""

    @property
    def local(self) -> bool:
        """Whether neurons can know s by themselves; otherwise it is one bit told to all of them."""
        return True


@final
@dataclass(frozen=True)
class Plain(SignPolicy):
    """s = +1 throughout: Hamilton's equations as they stand. From initial data costates grow as e^{(c − θ)t}."""

    def sign(self, moment: Snapshot) -> Sign:
        """+1."""
        return 1.0


@final
@dataclass(frozen=True)
class ConstantFlip(SignPolicy):
    """s = −1 throughout: costates decay, and weights descend with momentum."""

    def sign(self, moment: Snapshot) -> Sign:
        """−1."""
        return -1.0


@final
@dataclass(frozen=True)
class PeriodicFlip(SignPolicy):
    """s = +1 for a part of every period, then −1.

    Args:
        period: seconds from one flip to −1 to the next.
        plain: the part of a period during which s = +1.

    Raises:
        InputError: a period that is not positive, or a part outside [0, 1].
    """

    period: float
    plain: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no clock."""
        if not (isfinite(self.period) and self.period > 0 and 0 <= self.plain <= 1):
            raise InputError(
                "PeriodicFlip: period must be positive and finite and plain between 0 and 1, "
                f"got period={self.period}, plain={self.plain}",
                "a period in seconds, and the share of it with s = +1",
                "try PeriodicFlip(period=0.1)",
            )

    def sign(self, moment: Snapshot) -> Sign:
        """By the clock."""
        return 1.0 if moment.time % self.period < self.plain * self.period else -1.0


@final
@dataclass(frozen=True)
class TrackFlip(SignPolicy):
    """s = +1 while the system is inside a set S of phase space, −1 while it is outside.

    One bit per step is told to all neurons of a system, so this policy is local but for that bit.

    Args:
        inside: S as a function of a moment: one truth value per system. See `hamiltonian_within`, `costate_within`.
    """

    inside: Callable[[Snapshot], Tensor]

    def sign(self, moment: Snapshot) -> Sign:
        """Hamilton's sign on the track, the other one off it."""
        return torch.where(self.inside(moment), 1.0, -1.0)

    @property
    def local(self) -> bool:
        """One bit is global."""
        return False


def hamiltonian_within(low: float, high: float) -> Callable[[Snapshot], Tensor]:
    """The track low ≤ H/φ ≤ high.

    Raises:
        InputError: an empty track.
    """
    if not low <= high:
        raise InputError(
            f"hamiltonian_within: low must not be above high, got low={low}, high={high}",
            "low ≤ high",
            "try hamiltonian_within(-1.0, 1.0)",
        )
    return lambda moment: (moment.hamiltonian >= low) & (moment.hamiltonian <= high)


def costate_within(radius: float) -> Callable[[Snapshot], Tensor]:
    """The track ‖(π, π_w)‖ ≤ radius.

    Raises:
        InputError: a negative radius.
    """
    if not radius >= 0:
        raise InputError(
            f"costate_within: radius must not be negative, got {radius}", "0 or more", "try costate_within(1.0)"
        )
    return lambda moment: moment.costate_norm <= radius

"""How late each kind of message is."""

from typing import NamedTuple

from worldsheet.core.errors import InputError


class Delays(NamedTuple):
    """Ticks by which what a site reads is late, one number for each kind of message; 0 is the newest.

    Attributes:
        below: the states that arrive from below and that its layer is evaluated at.
        above: the credit that is pulled back to it, all that its sender knew included.
        point: the states at which that credit is pulled back.
        own: its own costate, when its state moves.
    """

    below: int = 0
    above: int = 0
    point: int = 0
    own: int = 0

    @staticmethod
    def of(ticks: "int | Delays", argument: str) -> "Delays":
        """A number stands for all that travels; a site's own costate does not.

        Raises:
            InputError: a negative delay.
        """
        delays = ticks if isinstance(ticks, Delays) else Delays(ticks, ticks, ticks)
        if min(delays) < 0:
            raise InputError(
                f"{argument} must not be negative, got {ticks!r}",
                "0 or more ticks",
                f"use {argument}=0 for fresh messages",
            )
        return delays

    def __str__(self) -> str:
        return ",".join(f"{kind}-{ticks}" for kind, ticks in self._asdict().items() if ticks)


FRESH = Delays()
"""The newest of everything."""

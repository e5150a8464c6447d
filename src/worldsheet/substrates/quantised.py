"""Messages of few bits."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState
from worldsheet.problem import View
from worldsheet.substrates.base import Substrate
from worldsheet.substrates.scales import largest


@final
@dataclass(frozen=True)
class Quantised(Substrate):
    """Every message rounded to a uniform grid of 2^bits − 1 levels, scaled to its largest entry.

        q = max|message| / (2^(bits−1) − 1),    message → q · round(message / q)

    with one scale per site and message, sent along. The error of an entry is at most q/2; at random, with a generator,
    it is below q and zero in the mean.

    Args:
        inner: the dynamics that decides the moves.
        bits: bits per entry, sign included, at least 2; None for no rounding.
        generator: rounds up or down at random, with the nearer level the likelier, so that small messages are not lost;
            None rounds to the nearest.

    Raises:
        InputError: fewer than two bits.
    """

    bits: int | None
    generator: Generator | None = None

    def __post_init__(self) -> None:
        """Refuse a grid of one level."""
        if self.bits is not None and self.bits < 2:
            raise InputError(
                f"Quantised: bits must be at least 2, got {self.bits}", "2 or more bits, or None", "use bits=8"
            )

    def arrived(self, message: AnyState, view: View) -> AnyState:
        """The nearest level, or one of the two nearest."""
        if self.bits is None:
            return message
        top = largest(message, view)
        step = torch.where(top > 0, top, 1.0) / ((1 << (self.bits - 1)) - 1)
        levels = message / step
        if self.generator is None:
            return step * levels.round()
        chance = torch.rand(message.shape, generator=self.generator, dtype=message.dtype, device=message.device)
        return step * (levels + chance).floor()

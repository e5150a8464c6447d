"""Noise on every message."""

from dataclasses import dataclass
from math import isfinite
from typing import final

import torch
from torch import Generator

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState
from worldsheet.problem import View
from worldsheet.substrates.base import Substrate
from worldsheet.substrates.scales import mean_square


@final
@dataclass(frozen=True)
class Noisy(Substrate):
    """Independent Gaussian noise on every entry of every message, each time that it is read.

        message + std · rms(message) · n,    n ~ N(0, 1)

    with the root mean square over one site's message, so that states and costates are equally noisy whatever their
    units. A relaxation stopped at time T carries the noise of its last readings: under `Dyadic(rate=1)` of one reading
    per hop, at smaller rates η of an average over some 1/η of them.

    Args:
        inner: the dynamics that decides the moves.
        std: noise over signal; 0 leaves every bit as it was.
        generator: the source of randomness, on the device of the messages.

    Raises:
        InputError: a deviation that is negative or not finite.
    """

    std: float
    generator: Generator

    def __post_init__(self) -> None:
        """Refuse what is no deviation."""
        if not (isfinite(self.std) and self.std >= 0):
            raise InputError(
                f"Noisy: std must be finite and not negative, got {self.std}",
                "0 or a positive number",
                "use 0.1 for noise of a tenth of the signal",
            )

    def arrived(self, message: AnyState, view: View) -> AnyState:
        """The message and noise."""
        if self.std == 0:
            return message
        noise = torch.randn(message.shape, generator=self.generator, dtype=message.dtype, device=message.device)
        return message + self.std * mean_square(message, view).sqrt() * noise

"""How many streams a network hears, how it begins, and what becomes of the unknown."""

from dataclasses import dataclass
from enum import Enum
from typing import final

import torch

from worldsheet.core.errors import InputError


class MissingValues(Enum):
    """What to do where a stream holds NaN, an infinity or a class below 0. None of them is ever learned from."""

    SKIP = "skip"
    """An unknown input keeps its last value; a stream with an unknown target runs on without an error of its own."""
    STOP = "stop"
    """`step` raises, `run` ends with an outcome."""


@final
@dataclass(frozen=True)
class Streams:
    """How many streams run at once.

    Args:
        count: streams, each with states and costates of its own.
        shared: whether they learn one set of weights, on which their forces add up, or one set each.
        missing: what to do about unknown inputs and targets.

    Raises:
        InputError: fewer than one stream.
    """

    count: int = 1
    shared: bool = True
    missing: MissingValues = MissingValues.SKIP

    def __post_init__(self) -> None:
        """Refuse none."""
        if self.count < 1:
            raise InputError(
                f"Streams: count must be at least 1, got {self.count}", "a number of streams", "leave it out for one"
            )


@final
@dataclass(frozen=True)
class Start:
    """Where a network begins: costates and momenta at 0, weights and states drawn.

    Args:
        gain: standard deviation of a weight times the root of its neuron's number of parents.
        spread: standard deviation of a state.
        generator: draws them; a new one seeded with 0 by default.
    """

    gain: float = 1.0
    spread: float = 0.1
    generator: torch.Generator | None = None

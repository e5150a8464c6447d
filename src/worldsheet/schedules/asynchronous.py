"""Any order, and messages that arrive late."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator

from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule, Tick
from worldsheet.schedules.delays import Delays


@final
@dataclass(frozen=True)
class Asynchronous(Schedule):
    """In each tick every site moves each field once, in an order drawn at random, on messages of random bounded age.

    The update graph of a feed-forward problem has no cycles, so a dynamics that settles at once reaches the exact
    gradient under any such order and delay: each level needs at most `max_delay` + 1 ticks after the one before it.
    A dynamics that couples both fields has cycles: it keeps its fixed point, and what may be late without ringing is in
    docs/theory.md.

    Args:
        generator: the source of randomness; its state moves on as ticks are drawn.
        max_delay: oldest message in ticks, of all that travels or kind by kind; 0 reads the newest, in random order.

    Raises:
        InputError: a negative delay.
    """

    generator: Generator
    max_delay: int | Delays = 0

    def __post_init__(self) -> None:
        """Refuse messages from the future."""
        Delays.of(self.max_delay, "max_delay")

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """Ticks of 2L phases of one firing each, without end."""
        moves = [(site, field) for field in Field for site in topology.sites]
        choices = 1 + torch.tensor(self._bounds)
        while True:
            order = torch.randperm(len(moves), generator=self.generator).tolist()
            drawn = torch.rand(len(moves), len(choices), generator=self.generator, dtype=torch.float64)
            ages = (drawn * choices).long().tolist()
            yield tuple(
                (_firing(move[0], move[1], Delays(*late)),)
                for move, late in zip((moves[index] for index in order), ages, strict=True)
            )

    def settles_after(self, topology: Topology) -> int:
        """(max_delay + 1) ticks per level and direction."""
        return 2 * topology.depth * (self.memory + 1)

    @property
    def memory(self) -> int:
        """The oldest message."""
        return max(self._bounds)

    @property
    def _bounds(self) -> Delays:
        return Delays.of(self.max_delay, "max_delay")


def _firing(site: int, field: Field, delays: Delays) -> Firing:
    """A costate adds to its newest value, however late it is for the state."""
    return Firing(site, field, delays if field is Field.STATE else delays._replace(own=0))

"""Any order, and messages that arrive late."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch

from worldsheet.core.errors import InputError
from worldsheet.core.field import Field
from worldsheet.problem import Topology
from worldsheet.schedule.base import Firing, Schedule, Tick


@final
@dataclass(frozen=True)
class Asynchronous(Schedule):
    """In each tick every site moves each field once, in an order drawn at random, on messages of random bounded age.

    The update graph of a feed-forward problem has no cycles, so a dynamics that settles at once reaches the exact
    gradient under any such order and delay: each level needs at most `max_delay` + 1 ticks after the one before it.

    Args:
        generator: the source of randomness; its state moves on as ticks are drawn.
        max_delay: oldest message in ticks; 0 reads the newest, in random order.

    Raises:
        InputError: a negative delay.
    """

    generator: torch.Generator
    max_delay: int = 0

    def __post_init__(self) -> None:
        """Refuse messages from the future."""
        if self.max_delay < 0:
            raise InputError(f"max_delay={self.max_delay}", "0 or more ticks", "use max_delay=0 for fresh messages")

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """Ticks of 2L phases of one firing each, without end."""
        moves = [(site, field) for field in Field for site in topology.sites]
        while True:
            order = torch.randperm(len(moves), generator=self.generator).tolist()
            ages = torch.randint(self.max_delay + 1, (len(moves), 2), generator=self.generator).tolist()
            yield tuple(
                (Firing(site, field, age, point_age if field is Field.COSTATE else 0),)
                for (site, field), (age, point_age) in zip((moves[index] for index in order), ages, strict=True)
            )

    def settles_after(self, topology: Topology) -> int:
        """(max_delay + 1) ticks per level and direction."""
        return 2 * topology.depth * (self.max_delay + 1)

    @property
    def once(self) -> bool:
        """False: sites move until the relaxation stops."""
        return False

    @property
    def memory(self) -> int:
        """The oldest message."""
        return self.max_delay

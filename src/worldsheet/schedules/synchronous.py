"""Every site at every tick."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import final

from typing_extensions import override

from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule, Tick


@final
@dataclass(frozen=True)
class Synchronous(Schedule):
    """All sites move both fields at once, each tick, reading what the last tick left.

    The literal relaxation: 2L ticks of L evaluations and L pull-backs. Any dynamics can use it.
    """

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """The same single phase for ever."""
        states = tuple(Firing(site, Field.STATE) for site in topology.sites)
        costates = tuple(Firing(site, Field.COSTATE) for site in topology.sites)
        return repeat((states + costates,))

    def settles_after(self, topology: Topology) -> int:
        """Twice the longest path: one front up, one front down."""
        return 2 * topology.depth

    @property
    @override
    def uniform(self) -> bool:
        return True

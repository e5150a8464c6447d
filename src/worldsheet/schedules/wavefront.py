"""Only the sites on the front."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from typing_extensions import override

from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule, Tick


@final
@dataclass(frozen=True)
class Wavefront(Schedule):
    """The synchronous relaxation at unit rate without the moves that change nothing.

    At η = 1 a site whose messages did not change computes the same values again. Only the sites the front has just
    reached are left: the states of level t at tick t, then the costates from the output back. Fields are bit-identical
    to `Synchronous` after the same 2L ticks, at one evaluation and one pull-back per layer.
    """

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """Depth ticks of states in rising level, depth ticks of costates in rising height."""
        return iter(_fronts(topology))

    def settles_after(self, topology: Topology) -> int:
        """Twice the longest path, as synchronously."""
        return 2 * topology.depth

    @property
    @override
    def once(self) -> bool:
        return True


@lru_cache(maxsize=64)
def _fronts(topology: Topology) -> tuple[Tick, ...]:
    up = tuple((tuple(Firing(site, Field.STATE) for site in front),) for front in topology.rising)
    down = tuple((tuple(Firing(site, Field.COSTATE, last=True) for site in front),) for front in topology.falling)
    return up + down

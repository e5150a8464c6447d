"""One field after the other."""

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
class Leapfrog(Schedule):
    """All sites move one field at once, then all move the other, which reads the first one moved.

    The staggered (symplectic) order: cross-coupled fields keep their energy under it, where a synchronous step would
    feed it. Costs what `Synchronous` costs.

    Args:
        first: the field that moves first.
    """

    first: Field = Field.STATE

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """The same two phases for ever."""
        order = (self.first, Field.COSTATE if self.first is Field.STATE else Field.STATE)
        return repeat(tuple(tuple(Firing(site, field) for site in topology.sites) for field in order))

    def settles_after(self, topology: Topology) -> int:
        """Twice the longest path, one less where the costates read the states of their own tick."""
        return 2 * topology.depth - (self.first is Field.STATE)

    @property
    @override
    def uniform(self) -> bool:
        return True

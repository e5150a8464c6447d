"""Up through the sites and down again within one tick."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import final

from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule, Tick


@final
@dataclass(frozen=True)
class Sweep(Schedule):
    """One site after the other, states upward then costates downward, each reading what the one before just wrote.

    With `Dyadic(rate=1)` one sweep is backpropagation. A dynamics that needs many moves per site takes
    `Sweep(count=None)`, which goes on until the relaxation stops.

    Args:
        count: number of sweeps, one per tick; None for no end.

    Raises:
        InputError: a count below 1.
    """

    count: int | None = 1

    def __post_init__(self) -> None:
        """Refuse a schedule in which nothing moves."""
        if self.count is not None and self.count < 1:
            raise InputError(
                f"Sweep: count must be at least 1, got {self.count}",
                "1 or more sweeps, or None for no end",
                "use Sweep()",
            )

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """Ticks of 2L phases of one firing each."""
        last = self.once
        up = tuple((Firing(site, Field.STATE),) for site in topology.sites)
        down = tuple((Firing(site, Field.COSTATE, last=last),) for site in reversed(topology.sites))
        return repeat(up + down) if self.count is None else repeat(up + down, self.count)

    def settles_after(self, topology: Topology) -> int:
        """A single sweep."""
        return 1

    @property
    @override
    def once(self) -> bool:
        """True for a single sweep."""
        return self.count == 1

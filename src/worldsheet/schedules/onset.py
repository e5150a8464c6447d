"""Every site from the tick at which the fronts reach it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import final

from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule, Tick


@final
@dataclass(frozen=True)
class Onset(Schedule):
    """`Synchronous`, but silent ahead of the fronts: a costate waits until the output has a state to be judged by.

    From zero fields a synchronous relaxation first sends down ∇C of an output of zero, a ghost that says nothing of the
    input and that no motion of parameters can answer. Here sites at level t begin at tick t, and costates when the
    front has turned at the output; then all move for ever. With Dyadic(rate=1) every costate that is not zero is one of
    this batch.
    """

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """Single phases that grow from the input up, then from the output down."""
        levels, depth = topology.levels, topology.depth
        for tick in count(1):
            states = tuple(Firing(site, Field.STATE) for site in topology.sites if levels[site] <= tick)
            awake = (site for site in topology.sites if depth + topology.heights[site] <= tick)
            yield ((*states, *(Firing(site, Field.COSTATE) for site in awake)),)

    def settles_after(self, topology: Topology) -> int:
        """Twice the longest path, as synchronously."""
        return 2 * topology.depth

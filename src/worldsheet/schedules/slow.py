"""Another schedule in which some sites are slow."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from typing import final

import torch
from torch import Generator

from worldsheet.core.errors import InputError
from worldsheet.core.topology import Topology
from worldsheet.schedules.base import Schedule, Tick
from worldsheet.schedules.late import hops_later, refuse_once


@final
@dataclass(frozen=True)
class Slow(Schedule):
    """The order of another schedule, in which slow sites move at every k-th tick only and hold their fields between.

    Args:
        inner: the order.
        sites: the slow sites, by number, or the share of sites that are, each drawn anew for each relaxation.
        every: k; slow sites move at ticks k, 2k, …
        generator: draws the slow sites where a share is given.

    Raises:
        InputError: k below 1, a share outside [0, 1] or without a generator, or a schedule that moves each site once.
    """

    inner: Schedule
    sites: Collection[int] | float
    every: int
    generator: Generator | None = None

    def __post_init__(self) -> None:
        """Refuse sites that never move."""
        refuse_once(self.inner, "slow sites")
        if self.every < 1:
            raise InputError(
                f"Slow: every must be at least 1, got {self.every}", "1 or more ticks", "use every=2 for half speed"
            )
        if isinstance(self.sites, Collection):
            return
        if not 0 <= self.sites <= 1 or self.generator is None:
            raise InputError(
                "Slow: sites must be numbers of sites, or a share between 0 and 1 with a generator, "
                f"got sites={self.sites}, generator={self.generator}",
                "a set of sites, or a share of them that the generator draws",
                "for example Slow(schedule, {2, 5}, every=3), or Slow(schedule, 0.3, 3, torch.Generator())",
            )

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """The other schedule's ticks, less the moves that slow sites leave out."""
        slow = self._drawn(topology)
        for number, tick in zip(count(1), self.inner.ticks(topology), strict=False):
            yield tick if number % self.every == 0 else _without(tick, slow)

    def settles_after(self, topology: Topology) -> int | None:
        """Up to k − 1 ticks for each of two hops per level later than the other schedule."""
        return hops_later(self.inner, topology, self.every - 1)

    @property
    def memory(self) -> int:
        """The other schedule's."""
        return self.inner.memory

    @property
    def own_delay(self) -> int:
        """The other schedule's."""
        return self.inner.own_delay

    def _drawn(self, topology: Topology) -> frozenset[int]:
        if isinstance(self.sites, Collection):
            strangers = sorted(set(self.sites) - set(topology.sites))
            if strangers:
                raise InputError(
                    f"Slow: sites {strangers} are not in the graph",
                    f"sites 1..{topology.size}",
                    "number the sites as the graph does",
                )
            return frozenset(self.sites)
        drawn = torch.rand(topology.size, generator=self.generator).tolist()
        return frozenset(site for site, chance in zip(topology.sites, drawn, strict=True) if chance < self.sites)


def _without(tick: Tick, slow: frozenset[int]) -> Tick:
    phases = (tuple(firing for firing in phase if firing.site not in slow) for phase in tick)
    return tuple(phase for phase in phases if phase)

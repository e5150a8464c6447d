"""Another schedule whose messages are always late."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule, Tick
from worldsheet.schedules.delays import Delays


@final
@dataclass(frozen=True)
class Late(Schedule):
    """The order of another schedule, with every message a fixed number of ticks late.

    A message that the other schedule reads in the tick in which it was sent is read `delay` ticks later, and so is one
    that it reads a tick later anyway.

    Args:
        inner: the order.
        delay: by how much, for all that travels or kind by kind.

    Raises:
        InputError: a negative delay, or a schedule that moves each site once, on messages that are not there yet.
    """

    inner: Schedule
    delay: int | Delays

    def __post_init__(self) -> None:
        """Refuse what cannot be late."""
        Delays.of(self.delay, "delay")
        refuse_once(self.inner, "late messages")

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """The other schedule's ticks, its messages older."""
        return (self._late(tick, topology) for tick in self.inner.ticks(topology))

    def settles_after(self, topology: Topology) -> int | None:
        """The delay for each of two hops per level later than the other schedule."""
        return hops_later(self.inner, topology, max(self._delays))

    @property
    def memory(self) -> int:
        """The oldest message; one that is a tick old anyway counts as such."""
        return max(self.inner.memory, 1) + max(self._delays)

    @property
    def own_delay(self) -> int:
        """The other schedule's and its own."""
        return self.inner.own_delay + self._delays.own

    @property
    def _delays(self) -> Delays:
        return Delays.of(self.delay, "delay")

    def _late(self, tick: Tick, topology: Topology) -> Tick:
        moved: set[tuple[int, Field]] = set()
        phases = []
        for phase in tick:
            phases.append(tuple(firing._replace(delays=self._aged(firing, moved, topology)) for firing in phase))
            moved |= {(firing.site, firing.field) for firing in phase}
        return tuple(phases)

    def _aged(self, firing: Firing, moved: set[tuple[int, Field]], topology: Topology) -> Delays:
        """Counted from the end of the tick in which the newest message was sent: this one, or the one before."""
        children = topology.children[firing.site]
        points = [(parent, Field.STATE) for child in children for parent in topology.parents_of(child)]
        sources: tuple[Iterable[tuple[int, Field]], ...] = (
            [(parent, Field.STATE) for parent in topology.parents_of(firing.site)],
            [(child, Field.COSTATE) for child in children],
            points or [(firing.site, Field.STATE)],
            [(firing.site, Field.COSTATE)],
        )
        extra = self._delays if firing.field is Field.STATE else self._delays._replace(own=0)
        return Delays(
            *(
                late + more if late or not more or not moved.isdisjoint(sent) else 1 + more
                for late, more, sent in zip(firing.delays, extra, sources, strict=True)
            )
        )


def refuse_once(inner: Schedule, what: str) -> None:
    """Refuse a schedule in which a site that waits has missed its turn.

    Raises:
        InputError: a schedule that moves each site once.
    """
    if inner.once:
        raise InputError(
            f"{inner} moves each site once and cannot be used with {what}",
            "a schedule that moves each site many times",
            "use Synchronous(), Leapfrog(), Sweep(count=None) or Asynchronous(generator)",
        )


def hops_later(inner: Schedule, topology: Topology, ticks: int) -> int | None:
    """When the other schedule settles if each of the two hops per level takes some ticks more."""
    exact = inner.settles_after(topology)
    return None if exact is None else exact + 2 * topology.depth * ticks

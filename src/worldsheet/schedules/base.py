"""A schedule: when each site moves, as data without tensors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, TypeAlias

from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.delays import FRESH, Delays


class Firing(NamedTuple):
    """One move of one field at one site.

    Attributes:
        site: which site moves, 1..L.
        field: its state or its costate.
        delays: how many ticks old the messages are that it reads.
        last: nothing this firing reads will move again, so the layer it is pulled through can give its parameter
            effort along and be forgotten.
    """

    site: int
    field: Field
    delays: Delays = FRESH
    last: bool = False

    def __str__(self) -> str:
        stale = f"[{self.delays}]" if any(self.delays) else ""
        return f"{self.field.value}{self.site}{stale}{'!' if self.last else ''}"


Phase: TypeAlias = tuple[Firing, ...]
"""Firings that read the same moment: none sees what another of them writes."""

Tick: TypeAlias = tuple[Phase, ...]
"""Phases one after the other: each sees what the earlier ones wrote."""


class Schedule(ABC):
    """The order in which the sites of a graph move. Every concrete schedule is final."""

    @abstractmethod
    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """The ticks in order, without end if the schedule has none."""

    @abstractmethod
    def settles_after(self, topology: Topology) -> int | None:
        """Ticks after which a dynamics that settles at once is exact whatever the start; None if never."""

    @property
    def once(self) -> bool:
        """Whether each site moves each field only once, on neighbours that have settled."""
        return False

    @property
    def uniform(self) -> bool:
        """Whether every phase moves a field at many neighbouring sites, so that these can move as one."""
        return False

    @property
    def carries(self) -> bool:
        """Whether the moves of a phase are carried along the path within it, each by the Jacobians of the layers."""
        return False

    @property
    def memory(self) -> int:
        """How many past ticks must be remembered for the oldest message."""
        return 0

    @property
    def own_delay(self) -> int:
        """By how many ticks a moving state's own costate is always late."""
        return 0

    def table(self, topology: Topology, ticks: int | None = None) -> str:
        """The schedule in writing: a line a tick, `|` between phases, `!` a last reading, `[below-2]` what is late."""
        count = ticks if ticks is not None else (self.settles_after(topology) or 2 * topology.depth)
        lines = []
        for number, tick in enumerate(islice(self.ticks(topology), count), start=1):
            phases = " | ".join(" ".join(str(firing) for firing in phase) for phase in tick)
            lines.append(f"{number:>4}  {phases}")
        return "\n".join(lines)

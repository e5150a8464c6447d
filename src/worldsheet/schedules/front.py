"""Only the sites that credit has reached."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from typing_extensions import override

from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule, Tick

_STRIDE = 6  # sites that take steps of zero cost little; a tick that is planned anew costs as much as a few of them


@final
@dataclass(frozen=True)
class CreditFront(Schedule):
    """`Leapfrog` without the moves that change nothing before credit arrives.

    A dynamics that starts from the forward pass with no credit has r = 0 and λ = 0 everywhere, so that only the sites
    next to the cost have anything to answer. What moves wakes the layers that read it and their inputs, one layer a
    tick. A site ahead of that front would take a step of zero; it is left out. Fields are those of `Leapfrog`, bit for
    bit where layers moved alone are, and of the L·T moves of a field L²/2 are saved: a quarter at T = 2L.

    From any other start the sites ahead only move later; it costs ticks, not exactness. In deep networks the sites are
    woken a few at a time, some of them early, so that the same tick comes again and is planned once.

    Args:
        first: the field that moves first.
    """

    first: Field = Field.COSTATE

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """Ticks of two phases that grow from the output until they hold every site, then the same for ever."""
        growing = _growing(topology, self.first)
        yield from growing
        while True:
            yield growing[-1]

    def settles_after(self, topology: Topology) -> int | None:
        """None: what settles at once starts in silence."""
        return None

    @property
    @override
    def uniform(self) -> bool:
        return True


@lru_cache(maxsize=64)
def _growing(topology: Topology, first: Field) -> tuple[Tick, ...]:
    order = (first, Field.COSTATE if first is Field.STATE else Field.STATE)
    fronts, stride = awake(topology), min(_STRIDE, max(1, topology.depth // 10))
    found: list[Tick] = []
    for start in range(0, len(fronts), stride):
        group = fronts[start : start + stride]
        tick = tuple(tuple(Firing(site, field) for site in sorted(group[-1])) for field in order)
        found += [tick] * len(group)
    return tuple(found)


@lru_cache(maxsize=64)
def awake(topology: Topology) -> tuple[frozenset[int], ...]:
    """The sites whose fields may move at each tick, to the tick from which on they stay the same.

    A layer may carry credit if its own state or one that it reads has moved; its site and those it reads may then move.
    """
    found: list[frozenset[int]] = []
    credited = frozenset(topology.ends)
    while True:
        reached = credited | {parent for layer in credited for parent in topology.parents_of(layer)}
        moving = frozenset(reached & set(topology.sites))
        if found and moving == found[-1]:
            return tuple(found)
        found.append(moving)
        credited = moving | {child for site in moving for child in topology.children[site]}

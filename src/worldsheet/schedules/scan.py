"""Every site at every tick, with what its neighbours are about to do carried along."""

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
class Scan(Schedule):
    """All states move at once, then all costates, and neighbouring sites of one shape by one scan: Newton's method.

        δ_l − J_l δ_{l−1} = r_l,   x ← x + δ;     ε_l − J_{l+1}ᵀ ε_{l+1} = g_l,   λ ← λ + ε                  (45)

    A tick of depth 1 in place of one of depth L, since corrections travel the whole path in log L rounds. States
    converge quadratically; costates are exact a tick after them. How many ticks that takes depends on the layers, not
    on the depth, where small deviations do not grow from layer to layer; where they do, `Wavefront` is the way.

    For `Dyadic(rate=1)` on paths whose states are rows of numbers, (batch, n). A tick computes the Jacobians of all
    layers between equal shapes, n pull-backs each.
    """

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        """The same two phases for ever."""
        states = tuple(Firing(site, Field.STATE) for site in topology.sites)
        costates = tuple(Firing(site, Field.COSTATE) for site in topology.sites)
        return repeat((states, costates))

    def settles_after(self, topology: Topology) -> None:
        """Not known before: residuals are measured."""
        del topology

    @property
    @override
    def uniform(self) -> bool:
        return True

    @property
    @override
    def carries(self) -> bool:
        return True

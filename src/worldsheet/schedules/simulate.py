"""Checking a schedule without a single tensor."""

from itertools import islice
from typing import NamedTuple

from worldsheet.core.errors import InputError
from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.schedules.base import Firing, Schedule


class Settling(NamedTuple):
    """The tick after which each field is exact for a dynamics that settles at once, sites 1..L in order."""

    states: tuple[int, ...]
    costates: tuple[int, ...]

    @property
    def ticks(self) -> int:
        """When the last field has settled."""
        return max(self.states + self.costates)


def simulate(schedule: Schedule, topology: Topology) -> Settling:
    """Follow the fronts through a schedule: a site settles when it moves on messages sent by settled neighbours.

    Raises:
        InputError: a field that has not settled when the schedule promises it, a site outside the graph, a message
            older than the schedule remembers, or a `last` reading of something that moves afterwards.
    """
    promised = schedule.settles_after(topology)
    if promised is None:
        raise InputError(
            f"{schedule} does not settle after a known number of ticks",
            "a schedule that settles",
            "simulate one whose settles_after is a number",
        )
    fronts = _Fronts(topology, schedule.memory)
    for number, tick in enumerate(islice(schedule.ticks(topology), promised), start=1):
        for phase in tick:
            fronts.move(phase, number)
        fronts.close_tick()
    fronts.refuse_unsettled(schedule, promised)
    inner = list(topology.sites)
    return Settling(
        tuple(fronts.settled[Field.STATE][site] for site in inner),
        tuple(fronts.settled[Field.COSTATE][site] for site in inner),
    )


class _Fronts:
    """Which fields hold their final value since which tick, and which were read for the last time."""

    def __init__(self, topology: Topology, memory: int) -> None:
        self.topology = topology
        self.memory = memory
        self.settled: dict[Field, dict[int, int]] = {Field.STATE: {0: -memory}, Field.COSTATE: {}}
        self.past: list[dict[Field, set[int]]] = []  # by tick, what was final at its end
        self.closed: set[tuple[int, Field]] = set()

    def move(self, phase: tuple[Firing, ...], tick: int) -> None:
        for firing in phase:
            self._refuse_impossible(firing)
        ready = {firing for firing in phase if self._reads_settled(firing)}
        for firing in phase:
            if firing.last:
                self._close(firing)
        for firing in phase:
            if firing in ready:
                self.settled[firing.field].setdefault(firing.site, tick)
            else:  # an old message unsettles
                self.settled[firing.field].pop(firing.site, None)

    def close_tick(self) -> None:
        """What is final now may be read later, even if an old message unsettles it meanwhile."""
        self.past.append({field: set(settled) for field, settled in self.settled.items()})

    def _reads_settled(self, firing: Firing) -> bool:
        delays, parents = firing.delays, self.topology.parents_of(firing.site)
        if firing.field is Field.STATE:
            return all(self._final(Field.STATE, parent, delays.below) for parent in parents)
        children = self.topology.children[firing.site]
        points = {firing.site, *(parent for child in children for parent in self.topology.parents_of(child))}
        if firing.site in self.topology.ends:
            points.update(self.topology.ends)
        return all(self._final(Field.STATE, point, delays.point) for point in points) and all(
            self._final(Field.COSTATE, child, delays.above) for child in children
        )

    def _final(self, field: Field, site: int, age: int) -> bool:
        """Whether the value of that age was final; what settles within the running tick is read with age 0."""
        if site == 0 or age == 0:
            return site in self.settled[field]
        return age <= len(self.past) and site in self.past[-age][field]

    def _close(self, firing: Firing) -> None:
        for child in self.topology.children[firing.site]:
            self.closed.add((child, Field.COSTATE))
        self.closed.add((firing.site, Field.STATE))

    def _refuse_impossible(self, firing: Firing) -> None:
        if firing.site not in self.topology.sites:
            raise InputError(
                f"the schedule fires {firing}, but the graph has no site {firing.site} that moves",
                f"sites 1..{self.topology.size}",
                "number the sites as the graph does",
            )
        if max(firing.delays) > self.memory:
            raise InputError(
                f"the schedule fires {firing}, which reads messages older than its memory of {self.memory} ticks",
                f"ages up to {self.memory}",
                "raise the schedule's memory",
            )
        if (firing.site, firing.field) in self.closed:
            raise InputError(
                f"the schedule fires {firing}, which has been read for the last time",
                "a `last` reading only of what never moves again",
                "drop last=True from the earlier firing that read it",
            )

    def refuse_unsettled(self, schedule: Schedule, promised: int) -> None:
        for field, settled in self.settled.items():
            late = [site for site in self.topology.sites if site not in settled]
            if late:
                raise InputError(
                    f"{schedule} has not settled {field.value} of sites {late} after {promised} ticks",
                    "every field settled by then",
                    "let each site move after its neighbours have settled, or raise settles_after",
                )

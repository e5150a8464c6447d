"""Which site feeds which: order without tensors."""

from dataclasses import dataclass
from functools import cached_property

from worldsheet.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Topology:
    """A directed acyclic graph of sites; site 0 is the input, sites 1..L are numbered in the order of evaluation.

    Attributes:
        parents: `parents[l - 1]` are the sites whose states layer l reads, each smaller than l.
        outputs: the sites that the cost reads; by default the last.
    """

    parents: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty graph and a site that reads itself or a later one."""
        if not self.parents:
            raise InputError("the graph has no layers", "at least one layer", "give the chain a layer to relax")
        for site, above in enumerate(self.parents, start=1):
            if not above or any(not 0 <= parent < site for parent in above):
                raise InputError(
                    f"site {site} must read the input or sites before it, got parents {above}",
                    f"one or more parents among 0..{site - 1}",
                    "number the sites in the order in which they are evaluated",
                )
        if any(not 1 <= site <= self.size for site in self.outputs):
            raise InputError(
                f"outputs must be sites of the graph, got {self.outputs}",
                f"sites among 1..{self.size}",
                "leave it out for the last site",
            )

    @staticmethod
    def chain(depth: int) -> "Topology":
        """The path 0 → 1 → … → depth."""
        return Topology(tuple((site - 1,) for site in range(1, depth + 1)))

    @property
    def size(self) -> int:
        """Number of layers L, which is also the number of the last site."""
        return len(self.parents)

    @cached_property
    def sites(self) -> range:
        """The sites that move: 1..L."""
        return range(1, self.size + 1)

    def parents_of(self, site: int) -> tuple[int, ...]:
        """The sites whose states the layer of `site` reads."""
        return self.parents[site - 1]

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """`children[l]` are the sites whose layers read x_l, in order, each once."""
        found: list[list[int]] = [[] for _ in range(self.size + 1)]
        for site in self.sites:
            for parent in dict.fromkeys(self.parents_of(site)):
                found[parent].append(site)
        return tuple(tuple(sites) for sites in found)

    @cached_property
    def reads(self) -> tuple[tuple[int, ...], ...]:
        """`reads[l]` are the sites that layer l reads, with the cost as layer L + 1, which reads the outputs."""
        return ((), *self.parents, self.ends)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The sites that the cost reads."""
        return self.outputs or (self.size,)

    @cached_property
    def open_ends(self) -> frozenset[int]:
        """The sites that the cost reads and no layer."""
        return frozenset(site for site in self.ends if not self.children[site])

    @cached_property
    def alive(self) -> frozenset[int]:
        """The sites that the cost depends on, through whatever reads them."""
        found = set(self.ends)
        for site in reversed(self.sites):
            if site in found:
                found.update(self.parents_of(site))
        return frozenset(found)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """`readers[l]` are the layers that read x_l; what no layer reads is read by the cost."""
        cost = (self.size + 1,)
        return tuple(
            above + cost if site in self.outputs else above or cost for site, above in enumerate(self.children)
        )

    @cached_property
    def is_path(self) -> bool:
        """Whether every site reads the one before it, and only that, and the cost the last."""
        return self.ends == (self.size,) and all(above == (site - 1,) for site, above in enumerate(self.parents, 1))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Longest path from the input to each site: the tick at which the state front reaches it."""
        level = [0] * (self.size + 1)
        for site in self.sites:
            level[site] = 1 + max(level[parent] for parent in self.parents_of(site))
        return tuple(level)

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """Longest path from each site to one that nobody reads, plus one: ticks of the costate front after the turn."""
        height = [1] * (self.size + 1)
        for site in reversed(self.sites):
            for parent in self.parents_of(site):
                height[parent] = max(height[parent], height[site] + 1)
        return tuple(height)

    @cached_property
    def rising(self) -> tuple[tuple[int, ...], ...]:
        """Sites by level, 1 first: where the state front is at each tick."""
        return _grouped(self.levels, self.sites)

    @cached_property
    def falling(self) -> tuple[tuple[int, ...], ...]:
        """Sites by height, 1 first: where the costate front is at each tick after the turn."""
        return _grouped(self.heights, self.sites)

    @cached_property
    def depth(self) -> int:
        """The longest path, D; a relaxation at unit rate is exact after 2D ticks."""
        return max(self.levels)


def _grouped(ranks: tuple[int, ...], sites: range) -> tuple[tuple[int, ...], ...]:
    groups: list[list[int]] = [[] for _ in range(max(ranks[1:]))]
    for site in sites:
        groups[ranks[site] - 1].append(site)
    return tuple(tuple(group) for group in groups)

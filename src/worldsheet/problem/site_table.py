"""The sites of a chain for one input, to look at."""

from collections.abc import Iterator
from typing import NamedTuple, final

from worldsheet.core.topology import Topology


class SiteRow(NamedTuple):
    """One state.

    Attributes:
        name: of the submodule that returned it, with the number of the call from the second on.
        kind: the submodule's class, or "join" for a sum or concatenation outside of all sites.
        shape: of the state.
        reads: the sites whose states its prediction was made from; 0 is the input.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    reads: tuple[int, ...]


@final
class SiteTable:
    """Sites 1..L in the order in which they are evaluated; printing it gives a table.

    Args:
        rows: one per site.
        topology: which reads which.
    """

    def __init__(self, rows: tuple[SiteRow, ...], topology: Topology) -> None:
        self.rows = rows
        self.topology = topology

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SiteRow]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> SiteRow:
        return self.rows[index]

    def __repr__(self) -> str:
        return f"{len(self)} sites, longest path {self.topology.depth}"

    def __str__(self) -> str:
        cells = [
            (str(site), row.name, row.kind, " x ".join(map(str, row.shape)) or "1", ", ".join(map(str, row.reads)))
            for site, row in enumerate(self.rows, start=1)
        ]
        table = [("site", "name", "class", "shape", "reads"), *cells]
        widths = [max(len(row[column]) for row in table) for column in range(5)]
        return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in table)

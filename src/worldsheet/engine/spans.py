"""A phase as moves of whole spans."""

from collections.abc import Sequence
from typing import NamedTuple, final

from worldsheet.core.field import Field
from worldsheet.engine.slab import Slab, Span
from worldsheet.schedule import Phase


class Move(NamedTuple):
    """Sites of one slab that move a field together."""

    field: Field
    slab: Slab
    span: Span


@final
class Spans:
    """Reads phases; one that comes again is not read twice."""

    def __init__(self) -> None:
        self._phase: dict[int, tuple[Phase, list[Move]]] = {}

    def of(self, phase: Phase, slabs: Sequence[Slab]) -> list[Move]:
        """The moves of a phase: for each field and slab, the sites that stand side by side."""
        kept = self._phase.get(id(phase))
        if kept is None or kept[0] is not phase:
            kept = self._phase[id(phase)] = (phase, _moves(phase, slabs))
        return kept[1]


def _moves(phase: Phase, slabs: Sequence[Slab]) -> list[Move]:
    found: list[Move] = []
    for field in Field:
        sites = sorted(firing.site for firing in phase if firing.field is field)
        for slab in slabs:
            inside = [site for site in sites if slab.span.first <= site <= slab.span.last]
            starts = [site for index, site in enumerate(inside) if index == 0 or inside[index - 1] != site - 1]
            ends = [
                site for index, site in enumerate(inside) if index == len(inside) - 1 or inside[index + 1] != site + 1
            ]
            found += [Move(field, slab, Span(*pair)) for pair in zip(starts, ends, strict=True)]
    return found

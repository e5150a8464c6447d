"""Slabs: the fields of consecutive sites of one shape, each field in one tensor."""

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.field import Field
from worldsheet.core.shapes import Elsewhere, Point
from worldsheet.engine.room import Room
from worldsheet.engine.runs import Run, same_form
from worldsheet.problem import Fields


class Span(NamedTuple):
    """Sites first..last."""

    first: int
    last: int

    def holds(self, other: "Span") -> bool:
        """Whether all sites of another span are in this one."""
        return self.first <= other.first and other.last <= self.last


class Made(NamedTuple):
    """Messages of a span, with the stamps of what they were made from.

    Attributes:
        span: whose messages they are.
        sources: stamps of the fields and messages that were read.
        value: one message per site.
        saved: for evaluations of runs, what the derivatives need, by the run's first layer.
    """

    span: Span
    sources: tuple[object, ...]
    value: Elsewhere
    saved: dict[int, tuple[Span, list[Point]]]

    def still(self, span: Span, sources: Sequence[object]) -> bool:
        """Whether asking again for a span would give the same."""
        if not self.span.holds(span):
            return False
        for mine, other in zip(self.sources, sources, strict=True):  # noqa: SIM110  all() costs a generator
            if mine is not other:
                return False
        return True

    def of(self, span: Span) -> Elsewhere:
        """The messages of some of the sites."""
        return cut(self.value, self.span, span)


class Shift(NamedTuple):
    """A move as what is kept of a field's old values and what is added to them.

    Attributes:
        keep: the factor of the old values.
        terms: tensors of the field's shape with their factors.
    """

    keep: float
    terms: list[tuple[float, Elsewhere]]


class Rooms(NamedTuple):
    """Memory for the messages of a slab."""

    predictions: Room
    residuals: Room
    credits: Room
    pulled: Room


@final
class Slab:
    """Consecutive sites of one shape: their fields, written into as they move, and their latest messages.

    Args:
        span: its sites.
        runs: the layers that predict them.
        states: (site, ...), the slab's own.
        costates: likewise.

    Attributes:
        stamps: by field, what stands for its present values; replaced when the field moves.
        predictions: the latest evaluation.
        residuals: the latest state residuals.
        credits: the latest credits.
        pulled: the latest messages from above.
        room: memory for these, in this order.
    """

    def __init__(self, span: Span, runs: tuple[Run, ...], states: Elsewhere, costates: Elsewhere) -> None:
        sites = span.last + 1 - span.first
        self.span = span
        self.runs = runs
        self.single = sites == 1
        self.fields: dict[Field, Elsewhere] = {Field.STATE: states, Field.COSTATE: costates}
        self.stamps: dict[Field, object] = {Field.STATE: object(), Field.COSTATE: object()}
        self.predictions: Made | None = None
        self.residuals: Made | None = None
        self.credits: Made | None = None
        self.pulled: Made | None = None
        self.room = Rooms(Room(sites), Room(sites), Room(sites), Room(sites))

    @property
    def states(self) -> Elsewhere:
        """The states of all its sites."""
        return self.fields[Field.STATE]

    @property
    def costates(self) -> Elsewhere:
        """The costates of all its sites."""
        return self.fields[Field.COSTATE]

    def rows(self, field: Field, span: Span) -> Elsewhere:
        """A field at some of the sites."""
        return cut(self.fields[field], self.span, span)

    def move(self, field: Field, span: Span, value: Elsewhere) -> None:
        """Give a field new values at some of the sites."""
        self.rows(field, span).copy_(value)
        self.stamps[field] = object()

    def shift(self, field: Field, span: Span, shift: Shift) -> None:
        """Add to a field at some of the sites."""
        rows, terms = self.rows(field, span), shift.terms
        if not terms and shift.keep == 1:
            return
        if shift.keep == 0 and terms:
            torch.mul(terms[0][1], terms[0][0], out=rows)
            terms = terms[1:]
        elif shift.keep != 1:
            rows.mul_(shift.keep)
        for factor, term in terms:
            rows.add_(term, alpha=factor)
        self.stamps[field] = object()


def cut(value: Elsewhere, span: Span, wanted: Span) -> Elsewhere:
    """The rows of some of the sites."""
    if span == wanted:
        return value
    return value[wanted.first - span.first : wanted.last + 1 - span.first]


def slabs(x: Tensor, fields: Fields, found: Sequence[Run]) -> list[Slab]:
    """Group sites 0..L by shape: the input apart unless the first layers are stacked, the output always apart."""
    states = [x.detach(), *fields.states]
    costates = [torch.zeros_like(x.detach()), *fields.costates]
    last = len(states) - 1
    firsts = [site for site in range(last + 1) if site in (0, last) or not _joined(states, site, found)]
    made = []
    for first, end in zip(firsts, [*firsts[1:], last + 1], strict=True):
        runs = tuple(run for run in found if first <= run.first and run.last < end)
        rows = [torch.stack(list(field[first:end])) for field in (states, costates)]
        made.append(Slab(Span(first, end - 1), runs, *rows))
    return made


def _joined(states: Sequence[Tensor], site: int, found: Sequence[Run]) -> bool:
    if site == 1 and found[0].alone:
        return False
    return same_form(states[site - 1], states[site])

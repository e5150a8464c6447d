"""Slabs: the fields of consecutive sites of one shape, each field in one tensor."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Field, Point
from worldsheet.dynamics import Coefficients
from worldsheet.engine.batched.runs import LayerGroup, Workspace, same_form
from worldsheet.schedules import Phase


class Span(NamedTuple):
    """Sites first..last."""

    first: int
    last: int

    def holds(self, other: "Span") -> bool:
        """Whether all sites of another span are in this one."""
        return self.first <= other.first and other.last <= self.last


class Made(NamedTuple):
    """Messages of a span.

    Attributes:
        span: whose messages they are.
        value: one message per site.
        saved: for evaluations of runs, what the derivatives need, by the run's first layer.
    """

    span: Span
    value: AnyState
    saved: dict[int, tuple[Span, list[Point]]]

    def of(self, span: Span) -> AnyState:
        """The messages of some of the sites."""
        return cut(self.value, self.span, span)


class Shift(NamedTuple):
    """A move as what is kept of a field's old values and what is added to them.

    Attributes:
        keep: the factor of the old values.
        terms: tensors of the field's shape with their factors.
    """

    keep: float
    terms: list[tuple[float, AnyState]]


class Workspaces(NamedTuple):
    """Memory for the messages of a slab."""

    predictions: Workspace
    residuals: Workspace
    credits: Workspace
    pulled: Workspace


@final
class Slab:
    """Consecutive sites of one shape: their fields, written into as they move, and their latest messages.

    A move lets go of the messages that were made from what has moved, here and in the neighbouring slabs.

    Args:
        span: its sites.
        runs: the layers that predict them.
        states: (site, ...), the slab's own.
        costates: likewise.

    Attributes:
        single: whether it is one site.
        below: the slab below, None at the input.
        above: the slab above, None at the output.
        predictions: the messages from below, None if they must be made anew.
        residuals: the state residuals, likewise.
        credits: the credits, likewise.
        pulled: the messages from above, likewise.
        points: rows of the states for layers that are evaluated alone, by site.
        sent: rows of the credits for layers that are pulled through alone, by site.
        table: the coefficients by which its sites move where their fields lie, None where their views must be asked.
        room: memory for the messages.
    """

    def __init__(self, span: Span, runs: tuple[LayerGroup, ...], states: AnyState, costates: AnyState) -> None:
        sites = span.last + 1 - span.first
        self.span = span
        self.runs = runs
        self.states = states
        self.costates = costates
        self.single = sites == 1
        self.below: Slab | None = None
        self.above: Slab | None = None
        self.predictions: Made | None = None
        self.residuals: Made | None = None
        self.credits: Made | None = None
        self.pulled: Made | None = None
        self.points: dict[int, Tensor] = {}
        self.sent: dict[int, Tensor] = {}
        self.table: Coefficients | None = None
        self.room = Workspaces(Workspace(sites), Workspace(sites), Workspace(sites), Workspace(sites))

    def rows(self, field: Field, span: Span) -> AnyState:
        """A field at some of the sites."""
        return cut(self.states if field is Field.STATE else self.costates, self.span, span)

    def move(self, field: Field, span: Span, value: AnyState) -> None:
        """Give a field new values at some of the sites."""
        self.rows(field, span).copy_(value)
        self._moved(field)

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
        self._moved(field)

    def _moved(self, field: Field) -> None:
        if field is Field.COSTATE and self.table is not None and self.table.credit.costate == 0:
            return  # nothing is made from costates
        self.credits = self.pulled = None
        self.sent.clear()
        if self.below is not None:
            self.below.pulled = None
        if field is Field.STATE:
            self.predictions = self.residuals = None
            self.points.clear()
            if self.above is not None:
                self.above.unfed()

    def renew(self) -> None:
        """Let go of all messages."""
        self.unfed()
        self.points.clear()

    def unfed(self) -> None:
        """Let go of what was made from the states below."""
        self.predictions = self.residuals = self.credits = self.pulled = None
        self.sent.clear()


def cut(value: AnyState, span: Span, wanted: Span) -> AnyState:
    """The rows of some of the sites."""
    if span == wanted:
        return value
    return value[wanted.first - span.first : wanted.last + 1 - span.first]


def slabs(x: Tensor, fields: Fields, found: Sequence[LayerGroup]) -> list[Slab]:
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
    for below, above in pairwise(made):
        below.above, above.below = above, below
    return made


def _joined(states: Sequence[Tensor], site: int, found: Sequence[LayerGroup]) -> bool:
    if site == 1 and found[0].alone:
        return False
    return same_form(states[site - 1], states[site])


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

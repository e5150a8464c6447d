"""Slabs: the fields of consecutive sites of one shape, each field in one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.field import Field
from worldsheet.core.shapes import Elsewhere, Point
from worldsheet.engine.runs import Run, same_form
from worldsheet.problem import Fields, Pull


class Span(NamedTuple):
    """Sites first..last."""

    first: int
    last: int

    def holds(self, other: "Span") -> bool:
        """Whether all sites of another span are in this one."""
        return self.first <= other.first and other.last <= self.last


class Made(NamedTuple):
    """Messages of a span, with the tensors that they were made from.

    Attributes:
        span: whose messages they are.
        sources: what was read; replaced when it moves, so that the same tensors give the same messages.
        value: one message per site.
        saved: for evaluations of runs, what the derivatives need, by the run's first layer.
    """

    span: Span
    sources: tuple[Tensor | Pull | None, ...]
    value: Elsewhere
    saved: dict[int, tuple[Span, list[Point]]]

    def still(self, span: Span, sources: Sequence[Tensor | Pull | None]) -> bool:
        """Whether asking again for a span would give the same."""
        if len(sources) != len(self.sources) or not self.span.holds(span):
            return False
        for mine, other in zip(self.sources, sources, strict=True):  # noqa: SIM110  all() costs a generator
            if mine is not other:
                return False
        return True

    def of(self, span: Span) -> Elsewhere:
        """The messages of some of the sites."""
        return cut(self.value, self.span, span)


@final
@dataclass
class Slab:
    """Consecutive sites of one shape. Tensors are replaced, never written into.

    Attributes:
        span: its sites.
        runs: the layers that predict them.
        fields: states and costates (site, ...).
        predictions: the latest evaluation.
        residuals: the latest state residuals.
        credits: the latest credits.
        pulled: the latest messages from above.
    """

    span: Span
    runs: tuple[Run, ...]
    fields: dict[Field, Elsewhere]
    predictions: Made | None = None
    residuals: Made | None = None
    credits: Made | None = None
    pulled: Made | None = None

    @property
    def states(self) -> Elsewhere:
        """The states of all its sites."""
        return self.fields[Field.STATE]

    @property
    def costates(self) -> Elsewhere:
        """The costates of all its sites."""
        return self.fields[Field.COSTATE]

    def move(self, what: Field, span: Span, value: Elsewhere) -> None:
        """Replace a field at some of the sites."""
        whole = self.fields[what]
        if span == self.span:
            self.fields[what] = value
            return
        first, last = span.first - self.span.first, span.last + 1 - self.span.first
        self.fields[what] = torch.cat([whole[:first], value, whole[last:]])


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
        rows = {Field.STATE: gathered(states[first:end]), Field.COSTATE: gathered(costates[first:end])}
        made.append(Slab(Span(first, end - 1), runs, rows))
    return made


def gathered(rows: Sequence[Tensor]) -> Elsewhere:
    """One tensor with a row for each site."""
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(list(rows))


def _joined(states: Sequence[Tensor], site: int, found: Sequence[Run]) -> bool:
    if site == 1 and found[0].alone:
        return False
    return same_form(states[site - 1], states[site])

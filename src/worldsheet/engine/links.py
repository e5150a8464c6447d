"""Layers bound to fields that stay where they lie: what a planned tick evaluates and pulls back through."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, final

import torch

from worldsheet.core.shapes import Costate, Elsewhere, Point, State
from worldsheet.problem import Stack

Operation: TypeAlias = Callable[[], object]
"""One operation of a planned tick, its operands bound."""


class Strip(NamedTuple):
    """The fields that layers first..last read and write, a row for each layer l.

    Attributes:
        below: x_{l-1}.
        states: x_l.
        credits: r_l, and e_l once the credit has been made of it.
        pulled: p_{l-1}, what the layer sends down.
    """

    below: Point
    states: Elsewhere
    credits: Elsewhere
    pulled: Elsewhere

    def rows(self, start: int) -> "Strip":
        """The rows from one on."""
        return Strip(*(field[start:] for field in self)) if start else self


class Bound(NamedTuple):
    """The two operations of some layers in a tick.

    Attributes:
        residual: r_l = f_l(x_{l-1}) − x_l.
        pull: p_{l-1} = J_lᵀ e_l.
    """

    residual: Operation
    pull: Operation


class Link(ABC):
    """Consecutive layers first..last that are evaluated together."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    @abstractmethod
    def bound(self, start: int, quiet: int) -> Bound:
        """The operations of its rows from `start` on, of which the first `quiet` send nothing down."""


@final
class Clamped(Link):
    """Layer 1, whose input never moves: its prediction is a constant, and nobody asks for its pull-back.

    Args:
        prediction: f_1(x_0).
        state: x_1.
        credit: r_1 goes here.
    """

    def __init__(self, prediction: State, state: State, credit: Costate) -> None:
        super().__init__(1, 1)
        self._operands = prediction, state, credit

    def bound(self, start: int, quiet: int) -> Bound:
        """One difference."""
        return Bound(self._residual, _nothing)

    def _residual(self) -> None:
        prediction, state, credit = self._operands
        torch.sub(prediction, state, out=credit)


@final
class Batched(Link):
    """A run of equal layers, or one of any closed form, with memory of its own for what lies between its steps.

    Args:
        first: its lowest layer.
        steps: the elementary maps of all its layers, in order.
        strip: a row for each layer.
    """

    def __init__(self, first: int, steps: Sequence[Stack], strip: Strip) -> None:
        super().__init__(first, first + len(strip.states) - 1)
        self._steps = steps
        self._strip = strip
        self._rooms = rooms_of(steps, strip)

    def bound(self, start: int, quiet: int) -> Bound:
        """Batched operations on the rows wanted."""
        count = len(self._strip.states)
        steps = [step.part(start, count) for step in self._steps]
        rows = Rows(steps, self._strip.rows(start), self._rooms.rows(start), quiet)
        return Bound(rows.residual, rows.pull if quiet < count - start else _nothing)


class Rooms(NamedTuple):
    """Memory between the steps of some layers, a tensor for each step.

    Attributes:
        values: what each step makes.
        work: of the shape of what it reads.
        credits: of that shape too, for what is pulled back to it; the first is p.
    """

    values: list[Elsewhere]
    work: list[Elsewhere]
    credits: list[Elsewhere]

    def rows(self, start: int) -> "Rooms":
        """The rows from one on."""
        return Rooms(*([room[start:] for room in held] for held in self)) if start else self


def rooms_of(steps: Sequence[Stack], strip: Strip) -> Rooms:
    """Memory for the steps of a strip; one row is evaluated, which tells the shapes."""
    values, value = [], strip.below[:1]
    for step in steps:
        value = step.part(0, 1).forward(value, None, None)[0]
        values.append(value.new_empty((len(strip.states), *value.shape[1:])))
    work = [torch.empty_like(field) for field in (strip.below, *values[:-1])]
    return Rooms(values, work, [strip.pulled, *(torch.empty_like(value) for value in values[:-1])])


@final
class Rows:
    """Some layers, at the states where they lie.

    Args:
        steps: their elementary maps, in order.
        strip: their fields.
        rooms: their memory.
        quiet: how many of them, from below, send nothing down.
    """

    __slots__ = ("_credits", "_forward", "_quiet", "_saved", "_senders", "_strip", "_top")

    def __init__(self, steps: Sequence[Stack], strip: Strip, rooms: Rooms, quiet: int) -> None:
        count = len(strip.states)
        self._strip = strip
        self._forward = list(zip(steps, rooms.values, rooms.work, strict=True))
        self._top = self._forward.pop()
        self._quiet = quiet
        senders = [step.part(quiet, count) for step in steps] if quiet else steps
        self._credits = strip.credits[quiet:] if quiet else strip.credits
        self._senders = list(zip(senders, rooms.rows(quiet).credits, strict=True))[::-1]
        self._saved: list[Point] = []

    def prediction(self, out: Elsewhere) -> None:
        """Write f_l(x_{l-1}) to `out`."""
        x = self._inner()
        step, _, work = self._top
        self._saved.append(step.forward(x, out, work)[1])

    def residual(self) -> None:
        """Write r_l to the credits."""
        x = self._inner()
        step, value, _ = self._top
        self._saved.append(step.residual(x, self._strip.states, self._strip.credits, value))

    def pull(self) -> None:
        """Pull the credits back."""
        credit, quiet = self._credits, self._quiet
        for (step, out), kept in zip(self._senders, reversed(self._saved), strict=True):
            credit = step.pull(credit, kept[quiet:] if quiet else kept, out)

    def _inner(self) -> Point:
        """All steps but the last."""
        x, self._saved = self._strip.below, []
        for step, value, work in self._forward:
            x, kept = step.forward(x, value, work)
            self._saved.append(kept)
        return x


def _nothing() -> None:
    """Where a layer has nothing to send."""

"""Layers bound to fields that stay where they lie: what a planned tick evaluates and pulls back through."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.shapes import Costate, Elsewhere, Point, State
from worldsheet.problem import Stack, Step, Stepwise

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
class Lone(Link):
    """One layer with a closed form.

    Args:
        layer: its number.
        steps: its elementary maps.
        strip: one row.
    """

    def __init__(self, layer: int, steps: Sequence[Step], strip: Strip) -> None:
        super().__init__(layer, layer)
        self._steps = steps
        self._below, self._state, self._credit, self._pulled = (field[0] for field in strip)
        self._made: Stepwise | None = None

    def bound(self, start: int, quiet: int) -> Bound:
        """Its own operations; none to pull back where that is not wanted."""
        return Bound(self._residual, _nothing if quiet else self._pull)

    def _residual(self) -> None:
        self._made = Stepwise(self._steps, (self._below,), True, ())
        torch.sub(self._made.output, self._state, out=self._credit)

    def _pull(self) -> None:
        assert self._made is not None  # residuals come first in a tick
        self._pulled.copy_(self._made.pull(self._credit, effort=False, keep=True).inputs[0])


@final
class Batched(Link):
    """A run of equal layers as batched maps, with memory of its own for what lies between their steps.

    Args:
        first: its lowest layer.
        steps: the elementary maps of all its layers, in order.
        strip: a row for each layer.
    """

    def __init__(self, first: int, steps: Sequence[Stack], strip: Strip) -> None:
        super().__init__(first, first + len(strip.states) - 1)
        self._steps = steps
        self._strip = strip
        self._values: list[Tensor] = []
        value = strip.below[:1]
        for step in steps:  # one row tells the shapes
            value = step.part(0, 1).forward(value, None, None)[0]
            self._values.append(value.new_empty((len(strip.states), *value.shape[1:])))
        self._credits = [torch.empty_like(value) for value in self._values[:-1]]
        self._work = [torch.empty_like(field) for field in (strip.below, *self._values[:-2])][: len(steps) - 1]

    def bound(self, start: int, quiet: int) -> Bound:
        """Batched operations on the rows wanted."""
        count = len(self._strip.states)
        rooms = [[room[start:] for room in held] for held in (self._values, self._work, self._credits)]
        run = _Rows([step.part(start, count) for step in self._steps], self._strip.rows(start), *rooms, quiet)
        return Bound(run.residual, run.pull if quiet < count - start else _nothing)


@final
class _Rows:
    """Some rows of a run."""

    __slots__ = ("_credits", "_quiet", "_saved", "_senders", "_steps", "_strip", "_values", "_work")

    def __init__(  # noqa: PLR0913, PLR0917  three kinds of memory
        self,
        steps: Sequence[Stack],
        strip: Strip,
        values: Sequence[Tensor],
        work: Sequence[Tensor],
        credits: Sequence[Tensor],
        quiet: int,
    ) -> None:
        count = len(strip.states)
        self._steps = steps
        self._strip = strip
        self._values = values
        self._work = work
        self._quiet = quiet
        self._senders = [step.part(quiet, count) for step in steps] if quiet else steps
        self._credits = [strip.pulled[quiet:], *(room[quiet:] for room in credits)]
        self._saved: list[Point] = []

    def residual(self) -> None:
        x, saved = self._strip.below, []
        for step, value, work in zip(self._steps, self._values, self._work, strict=False):  # all but the last
            x, kept = step.forward(x, value, work)
            saved.append(kept)
        saved.append(self._steps[-1].residual(x, self._strip.states, self._strip.credits, self._values[-1]))
        self._saved = saved

    def pull(self) -> None:
        quiet, credit = self._quiet, self._strip.credits
        saved = [kept[quiet:] for kept in self._saved] if quiet else self._saved
        credit = credit[quiet:] if quiet else credit
        for index in range(len(saved) - 1, -1, -1):
            credit = self._senders[index].pull(credit, saved[index], self._credits[index])


def _nothing() -> None:
    """Where a layer has nothing to send."""

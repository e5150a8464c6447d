"""Layers bound to fields that stay where they lie: what a planned tick evaluates and pulls back through."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, final

import torch

from worldsheet.core.shapes import Costate, Elsewhere, Point, State
from worldsheet.problem import Bound, Places, Stack


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


class Link(ABC):
    """Consecutive layers first..last that are evaluated together."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    @abstractmethod
    def bound(self, start: int, quiet: int) -> Bound:
        """What makes r_l = f_l(x_{l-1}) − x_l, and p_{l-1} = J_lᵀ e_l, of its rows from `start` on.

        The first `quiet` of them send nothing down.
        """


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
        self._residual = partial(torch.sub, prediction, state, out=credit)

    def bound(self, start: int, quiet: int) -> Bound:
        """One difference."""
        return Bound((self._residual,), ())


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
        steps = [step.part(start, count) for step in self._steps] if start else self._steps
        bound = bound_chain(steps, self._strip.rows(start), self._rooms.rows(start), quiet)
        return bound if quiet < count - start else Bound(bound.ahead, ())


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


def bound_chain(steps: Sequence[Stack], strip: Strip, rooms: Rooms, quiet: int, *, settled: bool = False) -> Bound:
    """The steps of some layers, one after the other, at the states where they lie.

    Args:
        steps: their elementary maps, in order.
        strip: their fields.
        rooms: their memory.
        quiet: how many of them, from below, send nothing down.
        settled: whether states take what is predicted; otherwise residuals are written to the credits.
    """
    top = len(steps) - 1
    ahead: list[Bound] = []
    x, credits = strip.below, [*rooms.credits[1:], strip.credits]
    for index, step in enumerate(steps):
        value = strip.states if settled and index == top else rooms.values[index]
        below = rooms.credits[index]
        at = Places(x, value, rooms.work[index], credits[index], below[quiet:] if quiet else below, quiet)
        alone = settled or index < top
        ahead.append(step.bound(at) if alone else step.bound_residual(at, strip.states))
        x = value
    return Bound(
        tuple(operation for bound in ahead for operation in bound.ahead),
        tuple(operation for bound in reversed(ahead) for operation in bound.back),
    )

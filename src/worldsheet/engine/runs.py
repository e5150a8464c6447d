"""Runs of equal layers: which are evaluated and pulled through together."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.core.shapes import Costate, Elsewhere, Point, State
from worldsheet.engine.room import Room
from worldsheet.problem import Stack, Traits


@final
class Run:
    """Consecutive layers first..last with equal closed forms, or one layer of any kind, which has no steps here.

    Args:
        first: its lowest layer.
        last: its highest layer.
        steps: the elementary maps of all its layers, in order.
        parameters: of all its layers, those that require grad, each once.
    """

    def __init__(self, first: int, last: int, steps: tuple[Stack, ...], parameters: tuple[Parameter, ...]) -> None:
        self.first = first
        self.last = last
        self.parameters = parameters
        self._steps = steps
        self._part = (first, last, steps)
        self._values = [Room(last + 1 - first) for _ in steps]
        self._work = [Room(last + 1 - first) for _ in steps]
        self._credits = [Room(last + 1 - first) for _ in steps]

    @property
    def alone(self) -> bool:
        """Whether it is one layer."""
        return self.first == self.last

    def forward(self, first: int, last: int, points: Point, out: State) -> list[Point]:
        """Evaluate layers first..last at `points`, into `out`; return what each step saves for its derivatives.

        What is saved is overwritten by the next call.
        """
        saved, top, count = [], len(self._steps) - 1, last + 1 - first
        for index, step in enumerate(self.part(first, last)):
            into = out if index == top else self._values[index].rows(count)
            y, kept = step.forward(points, into, self._work[index].like(points))
            if into is None:
                self._values[index].like(y)  # for the next time
            points = y
            saved.append(kept)
        return saved

    def pull(self, first: int, last: int, credit: Costate, saved: Sequence[Point], out: Elsewhere) -> None:
        """Pull credits back through layers first..last, into `out`."""
        steps = self.part(first, last)
        for index in range(len(steps) - 1, 0, -1):
            into = self._credits[index].rows(last + 1 - first)
            credit = steps[index].pull(credit, saved[index], into)
            if into is None:
                self._credits[index].like(credit)
        steps[0].pull(credit, saved[0], out)

    def efforts(self, credit: Costate, saved: Sequence[Point]) -> dict[int, tuple[Tensor, Tensor]]:
        """Each parameter's effort (4) under its id, summed over the run's layers; `saved` is of the whole run."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        lowest = next((index for index, step in enumerate(self._steps) if step.has_parameters), len(self._steps))
        for index in range(len(self._steps) - 1, lowest - 1, -1):
            step = self._steps[index]
            for parameter, part in step.efforts(credit, saved[index]):
                known = found.get(id(parameter))
                found[id(parameter)] = (parameter, part if known is None else known[1] + part)
            if index > lowest:
                credit = step.pull(credit, saved[index], None)
        return found

    def part(self, first: int, last: int) -> tuple[Stack, ...]:
        """The steps of some of the layers, remembered until others are asked for."""
        if self._part[:2] != (first, last):
            parts = tuple(step.part(first - self.first, last + 1 - self.first) for step in self._steps)
            self._part = (first, last, parts)
        return self._part[2]


def runs(traits: Sequence[Traits], points: Sequence[Tensor]) -> list[Run]:
    """Consecutive layers with equal closed forms on states of one shape, the last layer apart.

    Args:
        traits: of layers 1..L.
        points: what each of them reads, x_0..x_{L-1}.
    """
    autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")  # a closed form would not cast
    found: list[list[int]] = []
    for index in range(len(traits)):
        joins = 0 < index < len(traits) - 1 and not autocast and _equal(traits, points, index)
        if joins:
            found[-1].append(index)
        else:
            found.append([index])
    return [_gathered(indices, traits) for indices in found]


def same_form(one: Tensor, other: Tensor) -> bool:
    """Whether two states can be rows of one tensor."""
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _equal(traits: Sequence[Traits], points: Sequence[Tensor], index: int) -> bool:
    steps, below, point = traits[index].steps, traits[index - 1].steps, points[index]
    if not steps or not below or len(steps) != len(below) or not same_form(points[index - 1], point):
        return False
    pairs = zip(steps, below, strict=True)
    return all(step.alike(other) and step.fits(point) and other.fits(point) for step, other in pairs)


def _gathered(indices: Sequence[int], traits: Sequence[Traits]) -> Run:
    parameters = tuple({id(p): p for index in indices for p in traits[index].parameters}.values())
    steps: tuple[Stack, ...] = ()
    if len(indices) > 1:
        columns = zip(*(traits[index].steps or () for index in indices), strict=True)
        steps = tuple(column[0].stacked(column[1:]) for column in columns)
    return Run(indices[0] + 1, indices[-1] + 1, steps, parameters)

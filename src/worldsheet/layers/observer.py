"""Showing what meets at a layer's parameters to somebody who wants more of it than the effort."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import final

from torch import Tensor, nn

from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.closed_forms import steps_of
from worldsheet.layers.steps import Factors, Step


class Observer(ABC):
    """Is shown the two factors of every effort (4) of a linear map, each time the effort is taken."""

    @abstractmethod
    def see(self, factors: Factors) -> None:
        """Look at one layer's own inputs and credits: they are local to the layer."""


def factors_of(module: nn.Module, observer: Observer) -> dict[nn.Module, Callable[[Tensor, Tensor], None]]:
    """The linear maps inside of a module of any kind, each with what shows its factors to an observer."""
    found: dict[nn.Module, Callable[[Tensor, Tensor], None]] = {}
    for each in module.modules():
        steps = steps_of(each)
        if steps is not None and len(steps) == 1 and steps[0].has_parameters and not each._modules:
            found[each] = partial(_show, steps[0], observer)
    return found


def _show(step: Step, observer: Observer, point: Tensor, credit: Tensor) -> None:
    factors = step.factors(credit, point)
    if factors is not None:
        observer.see(factors)


@final
class Observed(Step):
    """A step that shows its factors to an observer whenever its efforts are asked for, and is otherwise the same.

    It has no like: a layer that is watched moves alone.

    Args:
        step: what it stands for.
        observer: who is shown.
    """

    __slots__ = ("_observer", "_step")

    def __init__(self, step: Step, observer: Observer) -> None:
        self._step = step
        self._observer = observer

    def forward(self, x: Point) -> tuple[State, Point]:
        """The step's own."""
        return self._step.forward(x)

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """The step's own."""
        return self._step.pull(credit, saved)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """The step's own, after the observer has looked."""
        factors = self._step.factors(credit, saved)
        if factors is not None:
            self._observer.see(factors)
        return self._step.efforts(credit, saved)

    @property
    def has_parameters(self) -> bool:
        """The step's own."""
        return self._step.has_parameters

    def fits(self, x: Point) -> bool:
        """The step's own."""
        return self._step.fits(x)

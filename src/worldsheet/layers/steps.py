"""Elementary maps whose derivatives are written out: the local rule in closed form, without a graph."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.products import Apply, Operation, Recording, at_once


class Factors(NamedTuple):
    """What a linear map's effort is made of: (∂f/∂W)ᵀ·credit = creditsᵀ inputs.

    Attributes:
        weight: the parameter W, of shape (out, ...).
        inputs: rows (rows, in) that W is applied to, a convolution's patches among them.
        credits: rows (rows, out).
        samples: batch size; a sample has several rows where W is applied at several places.
    """

    weight: Tensor
    inputs: AnyState
    credits: AnyState
    samples: int


class OperandSlots(NamedTuple):
    """Where the operands of a stack lie, for an evaluation that is repeated in the same memory.

    Attributes:
        x: what it reads.
        y: f(x) goes here.
        work: of the shape of x, to be overwritten.
        credit: what is pulled back.
        pulled: (∂f/∂x)ᵀ·credit goes here, of all sites but the first `quiet`.
        quiet: how many sites, from below, send nothing down.
    """

    x: Point
    y: State
    work: Tensor
    credit: Costate
    pulled: AnyState
    quiet: int


class BoundOperations(NamedTuple):
    """An evaluation in given places, as operations to be run in order.

    Attributes:
        ahead: evaluate.
        back: pull back what was evaluated last.
    """

    ahead: tuple[Operation, ...]
    back: tuple[Operation, ...]


class Stackable(ABC):
    """What a layer computes, where it can be gathered with its like."""

    @abstractmethod
    def alike(self, other: "Stackable") -> bool:
        """Whether the two can be stacked: the same map but for the values of parameters."""

    @abstractmethod
    def stacked(self, others: Sequence["Stackable"]) -> "Stack":
        """This one and its like, site by site, as one map on states (site, batch, ...)."""

    @abstractmethod
    def fits(self, x: Point) -> bool:
        """Whether this holds for such an input."""


class Step(Stackable):
    """One elementary map y = f(x; θ) with its two transposed derivatives."""

    @abstractmethod
    def forward(self, x: Point) -> tuple[State, Point]:
        """Return y = f(x) and the one tensor, x or y, that the derivatives need."""

    @abstractmethod
    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """(∂f/∂x)ᵀ·credit."""

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """(∂f/∂θ)ᵀ·credit (4) for each parameter that requires grad; none without parameters."""
        del credit, saved
        return ()

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything to give efforts for; what lies below the lowest such step is not pulled back."""
        return False

    def factors(self, credit: Costate, saved: Point) -> Factors | None:
        """What the effort of a linear map's weight is made of; None for other maps."""
        del credit, saved
        return None

    def alike(self, other: Stackable) -> bool:
        """Never, unless a step says so: it then moves alone."""
        del other
        return False

    def stacked(self, others: Sequence[Stackable]) -> "Stack":
        """Not asked of a step that is never alike."""
        raise NotImplementedError

    def alone(self) -> "Stack":
        """This step as a stack of one."""
        return _Alone(self)

    def fits(self, x: Point) -> bool:
        """Whether the closed form holds for this input; torch's own code takes over where it does not."""
        return x.is_floating_point()


class Stack(ABC):
    """One elementary map at each of several sites, y_s = f(x_s; θ_s), on tensors with a leading site dimension.

    Results are written to `out` where it is given, else to new memory: large new tensors cost more than the arithmetic.
    """

    @abstractmethod
    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """Return y = f(x) and the one tensor, x or y, that the derivatives need; `work`, like x, may be overwritten."""

    @abstractmethod
    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        """(∂f/∂x)ᵀ·credit, site by site."""

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """(∂f/∂θ_s)ᵀ·credit_s (4) for each parameter of each site that requires grad."""
        del credit, saved
        return ()

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything to give efforts for."""
        return False

    def bound(self, at: OperandSlots, state: State | None) -> BoundOperations:
        """`forward` and `pull` in given places.

        Where a state is given, what is written in the end is r = f(x) − state (2), to `at.credit`, whatever is left in
        `at.y`.
        """
        placed = _Placed(self, at)
        differ = () if state is None else (partial(torch.sub, at.y, state, out=at.credit),)
        return BoundOperations((placed.forward, *differ), (placed.pull,))

    @abstractmethod
    def part(self, start: int, stop: int) -> "Stack":
        """The sites start..stop − 1 of this stack."""

    @property
    def overwritten(self) -> bool:
        """Whether evaluations have written to what was gathered, as those of running statistics do."""
        return False

    @property
    def compiles(self) -> bool:
        """Whether `torch.compile` has anything to gain: nothing where torch's own operations are all there is."""
        return False

    def compiled(self) -> "Stack":
        """The same by `torch.compile`, where that gains anything."""
        return self


@final
class _Placed:
    """A stack in its places, with what the last evaluation saved."""

    __slots__ = ("_at", "_saved", "_sender", "_stack")

    def __init__(self, stack: Stack, at: OperandSlots) -> None:
        self._stack = stack
        self._sender = stack.part(at.quiet, len(at.x)) if at.quiet else stack
        self._at = at
        self._saved = at.x

    def forward(self) -> None:
        self._saved = self._stack.forward(self._at.x, self._at.y, self._at.work)[1]

    def pull(self) -> None:
        at = self._at
        self._sender.pull(at.credit[at.quiet :], self._saved[at.quiet :], at.pulled)


class Formula(Step, Stack):
    """A map that is a fixed list of torch's own kernels, written once for one layer and for several alike.

    Tensors of several layers have a site dimension in front. One layer runs its kernels at once and into new memory; a
    planned tick has them recorded, and runs nothing else.
    """

    @abstractmethod
    def ahead(self, apply: Apply, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """What `forward` does, kernel by kernel."""

    @abstractmethod
    def back(self, apply: Apply, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        """What `pull` does, kernel by kernel."""

    def differ(self, apply: Apply, at: OperandSlots, state: State) -> Point:
        """What writes r = f(x) − state (2) to `at.credit`; returns what the derivatives need."""
        y, saved = self.ahead(apply, at.x, at.y, at.work)
        apply(torch.sub, y, state, out=at.credit)
        return saved

    @override
    def forward(self, x: Point, out: Tensor | None = None, work: Tensor | None = None) -> tuple[State, Point]:
        return self.ahead(at_once, x, out, work)

    @override
    def pull(self, credit: Costate, saved: Point, out: Tensor | None = None) -> AnyState:
        return self.back(at_once, credit, saved, out)

    @override
    def part(self, start: int, stop: int) -> "Formula":
        return self

    @override
    def bound(self, at: OperandSlots, state: State | None) -> BoundOperations:
        ahead, back = Recording(), Recording()
        saved = self.ahead(ahead, at.x, at.y, at.work)[1] if state is None else self.differ(ahead, at, state)
        if at.quiet < (count := at.x.shape[0]):
            senders = self.part(at.quiet, count) if at.quiet else self
            senders.back(back, at.credit[at.quiet :], saved[at.quiet :], at.pulled)
        return BoundOperations(tuple(ahead.operations), tuple(back.operations))


@final
@dataclass(frozen=True)
class _Alone(Stack):
    """A step of any kind where a stack of one is asked for."""

    step: Step

    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        y, saved = self.step.forward(x[0])
        return y.unsqueeze(0) if out is None else out.copy_(y), saved.unsqueeze(0)

    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        pulled = self.step.pull(credit[0], saved[0])
        return pulled.unsqueeze(0) if out is None else out.copy_(pulled)

    def part(self, start: int, stop: int) -> Stack:
        del start, stop
        return self


class OffersStep(ABC):
    """A module that states its own closed form; mixed into an `nn.Module`, the layer is relaxed without a graph."""

    @abstractmethod
    def step(self) -> Step:
        """The module's map with its derivatives, reading its parameters when called."""

"""Equal steps of consecutive sites as one batched map."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.activations import Curve

Operation: TypeAlias = Callable[[], object]
"""One operation, its operands bound."""


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

    def bound(self, at: OperandSlots) -> BoundOperations:
        """`forward` and `pull` in given places."""
        kept = _Kept(self, at)
        return BoundOperations((kept.forward,), (kept.pull,))

    def bound_residual(self, at: OperandSlots, state: State) -> BoundOperations:
        """The same with r = f(x) − state (2) written to `at.credit`, whatever is left in `at.y`."""
        ahead, back = self.bound(at)
        return BoundOperations((*ahead, partial(torch.sub, at.y, state, out=at.credit)), back)


@final
class _Kept:
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
        saved, credit = (self._saved[at.quiet :], at.credit[at.quiet :]) if at.quiet else (self._saved, at.credit)
        self._sender.pull(credit, saved, at.pulled)


class ClosedStack(Stack, ABC):
    """A stack whose evaluation is a fixed list of torch's own operations, which is all that a planned tick runs."""

    @abstractmethod
    def like(self, x: Point) -> AnyState:
        """New memory for f(x)."""

    @abstractmethod
    def ahead(self, x: Point, y: State, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
        """What writes f(x) to y, and the tensor that the derivatives will find there."""

    @abstractmethod
    def back(self, credit: Costate, saved: Point, out: AnyState) -> tuple[Operation, ...]:
        """What writes (∂f/∂x)ᵀ·credit to `out`, which is no credit."""

    @abstractmethod
    def part(self, start: int, stop: int) -> "ClosedStack":
        """See `Stack.part`."""

    @override
    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        y = self.like(x) if out is None else out
        operations, saved = self.ahead(x, y, x.new_empty(x.shape) if work is None else work)
        run(operations)
        return y, saved

    @override
    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        pulled = saved.new_empty(saved.shape) if out is None else out
        run(self.back(credit, saved, pulled))
        return pulled

    @override
    def bound(self, at: OperandSlots) -> BoundOperations:
        ahead, saved = self.ahead(at.x, at.y, at.work)
        return BoundOperations(ahead, self._sent(at, saved))

    def _sent(self, at: OperandSlots, saved: Point) -> tuple[Operation, ...]:
        if not at.quiet:
            return self.back(at.credit, saved, at.pulled)
        if at.quiet == len(at.x):
            return ()
        senders = self.part(at.quiet, len(at.x))
        return senders.back(at.credit[at.quiet :], saved[at.quiet :], at.pulled)


def run(operations: Sequence[Operation]) -> None:
    """One after the other."""
    for operation in operations:
        operation()


@final
@dataclass(frozen=True)
class AffineStack(ClosedStack):
    """Affine maps of equal shapes on states (site, ..., width): one batched product for all.

    Attributes:
        weights: of each site.
        biases: of each site; none if the maps are linear.
        weight: the weights in one tensor.
        bias: the biases in one tensor (site, 1, width), or None.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> "AffineStack":
        """Gather the parameters, which are copied once."""
        bias = torch.stack([each.detach() for each in biases]).unsqueeze(1) if biases else None
        return AffineStack(tuple(weights), tuple(biases), torch.stack([each.detach() for each in weights]), bias)

    def like(self, x: Point) -> AnyState:
        """As wide as the weights are high."""
        return x.new_empty((*x.shape[:-1], self.weight.shape[1]))

    def ahead(self, x: Point, y: State, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
        """One batched product; x is saved."""
        rows, weight, out = _rows(x), self.weight.transpose(1, 2), _rows(y)
        if self.bias is None:
            return (partial(torch.bmm, rows, weight, out=out),), x
        return (partial(torch.baddbmm, self.bias, rows, weight, out=out),), x

    def back(self, credit: Costate, saved: Point, out: AnyState) -> tuple[Operation, ...]:
        """One batched product."""
        return (partial(torch.bmm, _rows(credit), self.weight, out=_rows(out)),)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One batched product and one sum, told apart by site."""
        rows = _rows(credit)
        products = torch.bmm(rows.transpose(1, 2), _rows(saved)).unbind()
        found = [pair for pair in zip(self.weights, products, strict=True) if pair[0].requires_grad]
        if self.biases:
            found += [pair for pair in zip(self.biases, rows.sum(1).unbind(), strict=True) if pair[0].requires_grad]
        return tuple(found)

    @property
    @override
    def has_parameters(self) -> bool:
        return True

    def part(self, start: int, stop: int) -> ClosedStack:
        """A view of the gathered parameters."""
        cut = slice(start, stop)
        bias = None if self.bias is None else self.bias[cut]
        return AffineStack(self.weights[cut], self.biases[cut], self.weight[cut], bias)


@final
@dataclass(frozen=True)
class PointwiseStack(ClosedStack):
    """An activation y = φ(x), the same at every site, whose derivative is a function of y.

    Attributes:
        curve: φ, with its derivative as a function of y.
    """

    curve: Curve

    def like(self, x: Point) -> AnyState:
        """Of the shape of x."""
        return x.new_empty(x.shape)

    def ahead(self, x: Point, y: State, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
        """The activation; y is saved."""
        return (partial(self.curve.value, x, y),), y

    def back(self, credit: Costate, saved: Point, out: AnyState) -> tuple[Operation, ...]:
        """One kernel."""
        return (partial(self.curve.pulled, credit, saved, out),)

    def part(self, start: int, stop: int) -> ClosedStack:
        """Itself: it works on any shape."""
        del start, stop
        return self


def _rows(tensor: Tensor) -> Tensor:
    """(site, row, feature), whatever is between."""
    return tensor if tensor.dim() == 3 else tensor.view(tensor.shape[0], -1, tensor.shape[-1])

"""Elementary maps whose derivatives are written out: the local rule in closed form, without a graph."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import Parameter
from typing_extensions import override

from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.activations import Curve
from worldsheet.layers.stacked_steps import AffineStack, PointwiseStack, Stack, Stackable


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


class Step(Stackable, ABC):
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

    def factors(self, credit: Costate, saved: Point) -> Factors | None:
        """What the effort of a linear map's weight is made of; None for other maps."""
        del credit, saved
        return None

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything to give efforts for; what lies below the lowest such step is not pulled back."""
        return False

    def alone(self) -> Stack:
        """This step as a stack of one."""
        return _Alone(self)

    def fits(self, x: Point) -> bool:
        """Whether the closed form holds for this input; torch's own code takes over where it does not."""
        return x.is_floating_point()


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


@final
class Affine(Step):
    """The map y = x Wᵀ + b: Jᵀc = c W; the effort of W is cᵀx, that of b the sum of c over the batch."""

    __slots__ = ("_module",)

    def __init__(self, module: nn.Linear) -> None:
        self._module = module

    def forward(self, x: Point) -> tuple[State, Point]:
        """One product; x is saved."""
        return F.linear(x, self._module.weight, self._module.bias), x

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """One product."""
        return torch.matmul(credit, self._module.weight)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One product and one sum."""
        weight, bias = self._module._parameters["weight"], self._module._parameters["bias"]
        rows, inputs = _rows(credit), _rows(saved)
        found: tuple[tuple[Tensor, Tensor], ...] = ()
        if weight is not None and weight.requires_grad:
            found = ((weight, torch.mm(rows.t(), inputs)),)
        if bias is not None and bias.requires_grad:
            found = (*found, (bias, rows.sum(0)))
        return found

    def factors(self, credit: Costate, saved: Point) -> Factors:
        """Its inputs and credits as they are."""
        return Factors(self._module.weight, _rows(saved), _rows(credit), credit.shape[0])

    @property
    @override
    def has_parameters(self) -> bool:
        return True

    def alike(self, other: Stackable) -> bool:
        """Equal shapes, both with a bias or both without."""
        if not isinstance(other, Affine):
            return False
        mine, theirs = self._module, other._module
        return mine.weight.shape == theirs.weight.shape and (mine.bias is None) == (theirs.bias is None)

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """One batched product."""
        modules = [self._module, *(other._module for other in others if isinstance(other, Affine))]
        biases = [bias for bias in (module._parameters["bias"] for module in modules) if bias is not None]
        return AffineStack.of([module.weight for module in modules], biases)

    def alone(self) -> Stack:
        """One product into memory that is there."""
        return self.stacked(())

    def fits(self, x: Point) -> bool:
        """Plain parameters of the input's dtype: quantised and distributed ones have code of their own."""
        weight = self._module.weight
        return x.is_floating_point() and type(weight) is Parameter and x.dtype == weight.dtype


@final
class Pointwise(Step):
    """An activation y = φ(x) whose derivative is a function of y: Jᵀc = φ'(y)·c.

    Args:
        curve: φ and its derivative.
    """

    __slots__ = ("_curve",)

    def __init__(self, curve: Curve) -> None:
        self._curve = curve

    def forward(self, x: Point) -> tuple[State, Point]:
        """The activation; y is saved."""
        y = self._curve.value(x, None)
        return y, y

    def alike(self, other: Stackable) -> bool:
        """The same activation."""
        return other is self

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """Works on any shape."""
        return PointwiseStack(self._curve)

    def alone(self) -> Stack:
        """One kernel into memory that is there."""
        return self.stacked(())

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """One kernel."""
        return self._curve.pulled(credit, saved, None)


@final
class Flattened(Step):
    """Dimensions joined: Jᵀc is c in the old shape.

    Args:
        module: which dimensions.
    """

    __slots__ = ("_module",)

    def __init__(self, module: nn.Flatten) -> None:
        self._module = module

    def forward(self, x: Point) -> tuple[State, Point]:
        """A view; x is kept for its shape."""
        return x.flatten(self._module.start_dim, self._module.end_dim), x

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """A view."""
        return credit.reshape(saved.shape)

    def alike(self, other: Stackable) -> bool:
        """Flattening once changes the shape of what follows, so that no two in a row are the same."""
        return False

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """Never alike."""
        raise NotImplementedError


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])

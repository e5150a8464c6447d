"""Equal steps of consecutive sites as one batched map."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor

from worldsheet.core.shapes import Costate, Elsewhere, Point, State


@final
@dataclass(frozen=True)
class Curve:
    """An activation φ whose derivative is a function of y = φ(x), each into `out` where it is given.

    Attributes:
        value: maps (x, out) to φ(x).
        pulled: maps (c, y, out) to φ'·c; `out` may be c.
    """

    value: Callable[[Tensor, Tensor | None], Tensor]
    pulled: Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Stack(ABC):
    """One elementary map at each of several sites, y_s = f(x_s; θ_s), on tensors with a leading site dimension.

    Results are written to `out` where it is given, else to new memory: large new tensors cost more than the arithmetic.
    """

    @abstractmethod
    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """Return y = f(x) and the one tensor, x or y, that the derivatives need; `work`, like x, may be overwritten."""

    def residual(self, x: Point, state: State, out: Tensor, room: Tensor) -> Point:
        """Write r = f(x) − state (2) to `out` and return what the derivatives need; `room` has the shape of f(x)."""
        y, saved = self.forward(x, room, None)
        torch.sub(y, state, out=out)
        return saved

    @abstractmethod
    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> Elsewhere:
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


@final
@dataclass(frozen=True)
class AffineStack(Stack):
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

    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """One batched product; x is saved."""
        rows, weight, into = _rows(x), self.weight.transpose(1, 2), None if out is None else _rows(out)
        bias = self.bias
        y = torch.bmm(rows, weight, out=into) if bias is None else torch.baddbmm(bias, rows, weight, out=into)
        return y.view(*x.shape[:-1], y.shape[-1]), x

    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> Elsewhere:
        """One batched product."""
        return torch.bmm(_rows(credit), self.weight, out=None if out is None else _rows(out)).view(saved.shape)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One batched product and one sum, told apart by site."""
        rows = _rows(credit)
        products = torch.bmm(rows.transpose(1, 2), _rows(saved)).unbind()
        found = [pair for pair in zip(self.weights, products, strict=True) if pair[0].requires_grad]
        if self.biases:
            found += [pair for pair in zip(self.biases, rows.sum(1).unbind(), strict=True) if pair[0].requires_grad]
        return tuple(found)

    @property
    def has_parameters(self) -> bool:
        """True."""
        return True

    def part(self, start: int, stop: int) -> Stack:
        """A view of the gathered parameters."""
        cut = slice(start, stop)
        bias = None if self.bias is None else self.bias[cut]
        return AffineStack(self.weights[cut], self.biases[cut], self.weight[cut], bias)


@final
@dataclass(frozen=True)
class PointwiseStack(Stack):
    """An activation y = φ(x), the same at every site, whose derivative is a function of y.

    Attributes:
        curve: φ, with its derivative as a function of y.
    """

    curve: Curve

    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """The activation; y is saved."""
        y = self.curve.value(x, out)
        return y, y

    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> Elsewhere:
        """One kernel."""
        return self.curve.pulled(credit, saved, out)

    def part(self, start: int, stop: int) -> Stack:
        """Itself: it works on any shape."""
        del start, stop
        return self


@final
@dataclass(frozen=True)
class ResidualStack(Stack):
    """Residual layers z + k φ(z) Wᵀ of equal width and scale on states (site, batch, width).

    Attributes:
        weights: of each site.
        weight: the weights in one tensor.
        scale: k.
        curve: φ, with its derivative as a function of z or φ(z) alike; None for the identity.
    """

    weights: tuple[Tensor, ...]
    weight: Tensor
    scale: float
    curve: Curve | None

    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """One batched product and one sum; φ(z) is saved."""
        active = x if self.curve is None else self.curve.value(x, work)
        y = torch.baddbmm(x, active, self.weight.transpose(1, 2), alpha=self.scale, out=out)
        return y, active

    def residual(self, x: Point, state: State, out: Tensor, room: Tensor) -> Point:
        """One difference, to which the batched product is added where it lies."""
        active = x if self.curve is None else self.curve.value(x, room)
        torch.sub(x, state, out=out).baddbmm_(active, self.weight.transpose(1, 2), alpha=self.scale)
        return active

    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> Elsewhere:
        """One batched product, one mask, one sum."""
        through = torch.bmm(credit, self.weight, out=out)
        if self.curve is not None:
            through = self.curve.pulled(through, saved, through)
        return torch.add(credit, through, alpha=self.scale, out=through)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One batched product, told apart by site."""
        products = torch.bmm(credit.transpose(1, 2), saved).mul_(self.scale).unbind()
        return tuple(pair for pair in zip(self.weights, products, strict=True) if pair[0].requires_grad)

    @property
    def has_parameters(self) -> bool:
        """True."""
        return True

    def part(self, start: int, stop: int) -> Stack:
        """A view of the gathered weights."""
        cut = slice(start, stop)
        return ResidualStack(self.weights[cut], self.weight[cut], self.scale, self.curve)


@final
@dataclass(frozen=True)
class ActivatedStack(Stack):
    """Pre-activated layers φ(z) Wᵀ on states (site, batch, width), to be moved only.

    Attributes:
        weight: the weights in one tensor.
        curve: φ, with its derivative as a function of z or φ(z) alike; None for the identity.
    """

    weight: Tensor
    curve: Curve | None

    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """One batched product; φ(z) is saved."""
        active = x if self.curve is None else self.curve.value(x, work)
        return torch.bmm(active, self.weight.transpose(1, 2), out=out), active

    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> Elsewhere:
        """One batched product and one mask."""
        through = torch.bmm(credit, self.weight, out=out)
        return through if self.curve is None else self.curve.pulled(through, saved, through)

    def part(self, start: int, stop: int) -> Stack:
        """A view of the gathered weights."""
        return ActivatedStack(self.weight[start:stop], self.curve)


def _rows(tensor: Tensor) -> Tensor:
    """(site, row, feature), whatever is between."""
    return tensor if tensor.dim() == 3 else tensor.view(tensor.shape[0], -1, tensor.shape[-1])


def _tanh_pulled(credit: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
    aten = torch.ops.aten
    return cast(Tensor, aten.tanh_backward(credit, y) if out is None else _into(aten.tanh_backward, out, credit, y))


def _sigmoid_pulled(credit: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
    aten = torch.ops.aten
    return cast(
        Tensor, aten.sigmoid_backward(credit, y) if out is None else _into(aten.sigmoid_backward, out, credit, y)
    )


def _relu_pulled(credit: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
    aten = torch.ops.aten
    if out is None:
        return cast(Tensor, aten.threshold_backward(credit, y, 0))
    return _into(aten.threshold_backward, out, credit, y, 0)


def _into(kernel: Any, out: Tensor, *arguments: Any) -> Tensor:
    return cast(Tensor, kernel.grad_input(*arguments, grad_input=out))


TANH = Curve(lambda x, out: torch.tanh(x, out=out), _tanh_pulled)
SIGMOID = Curve(lambda x, out: torch.sigmoid(x, out=out), _sigmoid_pulled)
RELU = Curve(lambda x, out: torch.clamp_min(x, 0, out=out), _relu_pulled)

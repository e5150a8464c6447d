"""Equal steps of consecutive sites as one batched map."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.core.shapes import Costate, Elsewhere, Point, State


class Stack(ABC):
    """One elementary map at each of several sites, y_s = f(x_s; θ_s), on tensors with a leading site dimension.

    Results are new tensors, or `out` where one is given.
    """

    @abstractmethod
    def forward(self, x: Point, out: Tensor | None = None) -> tuple[State, Point]:
        """Return y = f(x) and the one tensor, x or y, that the derivatives need."""

    @abstractmethod
    def pull(self, credit: Costate, saved: Point, out: Tensor | None = None) -> Elsewhere:
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

    weights: tuple[Parameter, ...]
    biases: tuple[Parameter, ...]
    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(weights: Sequence[Parameter], biases: Sequence[Parameter]) -> "AffineStack":
        """Gather the parameters, which are copied once."""
        bias = torch.stack([each.detach() for each in biases]).unsqueeze(1) if biases else None
        return AffineStack(tuple(weights), tuple(biases), torch.stack([each.detach() for each in weights]), bias)

    def forward(self, x: Point, out: Tensor | None = None) -> tuple[State, Point]:
        """One batched product; x is saved."""
        rows, weight = _rows(x), self.weight.transpose(1, 2)
        into = None if out is None else _rows(out)
        y = torch.bmm(rows, weight, out=into) if self.bias is None else _shifted(self.bias, rows, weight, into)
        return (y.reshape(*x.shape[:-1], y.shape[-1]) if out is None else out), x

    def pull(self, credit: Costate, saved: Point, out: Tensor | None = None) -> Elsewhere:
        """One batched product."""
        if out is None:
            return torch.bmm(_rows(credit), self.weight).view(saved.shape)
        torch.bmm(_rows(credit), self.weight, out=_rows(out))
        return out

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
        activation: φ.
        pulled: maps (c, y) to φ'·c.
    """

    activation: Callable[[Tensor], Tensor]
    pulled: Callable[[Tensor, Tensor], Tensor]

    def forward(self, x: Point, out: Tensor | None = None) -> tuple[State, Point]:
        """The activation; y is saved."""
        y = self.activation(x) if out is None else out.copy_(self.activation(x))
        return y, y

    def pull(self, credit: Costate, saved: Point, out: Tensor | None = None) -> Elsewhere:
        """One kernel."""
        through = self.pulled(credit, saved)
        return through if out is None else out.copy_(through)

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
        activation: φ.
        pulled: maps (c, z) to φ'(z)·c.
    """

    weights: tuple[Parameter, ...]
    weight: Tensor
    scale: float
    activation: Callable[[Tensor], Tensor]
    pulled: Callable[[Tensor, Tensor], Tensor]

    def forward(self, x: Point, out: Tensor | None = None) -> tuple[State, Point]:
        """One batched product and one sum; z is saved."""
        active = self.activation(x)
        y = torch.baddbmm(x, active, self.weight.transpose(1, 2), alpha=self.scale, out=out)  # type: ignore[call-overload]
        return y, x

    def pull(self, credit: Costate, saved: Point, out: Tensor | None = None) -> Elsewhere:
        """One batched product, one mask, one sum."""
        through = self.pulled(torch.bmm(credit, self.weight), saved)
        return torch.add(credit, through, alpha=self.scale, out=out)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One batched product, told apart by site."""
        products = torch.bmm(credit.transpose(1, 2), self.activation(saved)).mul_(self.scale).unbind()
        return tuple(pair for pair in zip(self.weights, products, strict=True) if pair[0].requires_grad)

    @property
    def has_parameters(self) -> bool:
        """True."""
        return True

    def part(self, start: int, stop: int) -> Stack:
        """A view of the gathered weights."""
        cut = slice(start, stop)
        return ResidualStack(self.weights[cut], self.weight[cut], self.scale, self.activation, self.pulled)


def _rows(tensor: Tensor) -> Tensor:
    """(site, row, feature), whatever is between."""
    return tensor if tensor.dim() == 3 else tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


def _shifted(bias: Tensor, rows: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    return torch.baddbmm(bias, rows, weight) if out is None else torch.baddbmm(bias, rows, weight, out=out)

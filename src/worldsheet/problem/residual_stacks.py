"""Pre-activated layers, with and without a skip connection, as batched maps."""

from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from worldsheet.core.shapes import Costate, Elsewhere, Point, State
from worldsheet.problem.curves import Curve
from worldsheet.problem.stacks import Bound, ClosedStack, Operation, Places


@final
@dataclass(frozen=True)
class ResidualStack(ClosedStack):
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

    def like(self, x: Point) -> Elsewhere:
        """Of the shape of x."""
        return x.new_empty(x.shape)

    def ahead(self, x: Point, y: State, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
        """One batched product and one sum; φ(z) is saved."""
        activate, active = activated(self.curve, x, work)
        return (*activate, partial(torch.baddbmm, x, active, self._turned, alpha=self.scale, out=y)), active

    def back(self, credit: Costate, saved: Point, out: Elsewhere) -> tuple[Operation, ...]:
        """One batched product, one mask, one sum."""
        mask = () if self.curve is None else (partial(self.curve.pulled, out, saved, out),)
        sum_up = partial(torch.add, credit, out, alpha=self.scale, out=out)
        return (partial(torch.bmm, credit, self.weight, out=out), *mask, sum_up)

    def bound_residual(self, at: Places, state: State) -> Bound:
        """One difference, to which the batched product is added where it lies."""
        activate, active = activated(self.curve, at.x, at.work)
        differ = partial(torch.sub, at.x, state, out=at.credit)
        add = partial(at.credit.baddbmm_, active, self._turned, alpha=self.scale)
        return Bound((*activate, differ, add), self._sent(at, active))

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One batched product, told apart by site."""
        products = torch.bmm(credit.transpose(1, 2), saved).mul_(self.scale).unbind()
        return tuple(pair for pair in zip(self.weights, products, strict=True) if pair[0].requires_grad)

    @property
    def has_parameters(self) -> bool:
        """True."""
        return True

    def part(self, start: int, stop: int) -> ClosedStack:
        """A view of the gathered weights."""
        cut = slice(start, stop)
        return ResidualStack(self.weights[cut], self.weight[cut], self.scale, self.curve)

    @property
    def _turned(self) -> Tensor:
        return self.weight.transpose(1, 2)


@final
@dataclass(frozen=True)
class ActivatedStack(ClosedStack):
    """Pre-activated layers φ(z) Wᵀ on states (site, batch, width), to be moved only.

    Attributes:
        weight: the weights in one tensor.
        curve: φ, with its derivative as a function of z or φ(z) alike; None for the identity.
    """

    weight: Tensor
    curve: Curve | None

    def like(self, x: Point) -> Elsewhere:
        """As wide as the weights are high."""
        return x.new_empty((*x.shape[:-1], self.weight.shape[1]))

    def ahead(self, x: Point, y: State, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
        """One batched product; φ(z) is saved."""
        activate, active = activated(self.curve, x, work)
        return (*activate, partial(torch.bmm, active, self.weight.transpose(1, 2), out=y)), active

    def back(self, credit: Costate, saved: Point, out: Elsewhere) -> tuple[Operation, ...]:
        """One batched product and one mask."""
        product = partial(torch.bmm, credit, self.weight, out=out)
        return (product,) if self.curve is None else (product, partial(self.curve.pulled, out, saved, out))

    def part(self, start: int, stop: int) -> ClosedStack:
        """A view of the gathered weights."""
        return ActivatedStack(self.weight[start:stop], self.curve)


def activated(curve: Curve | None, x: Point, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
    """What writes φ(x) to `work`, and where φ(x) is then."""
    return ((), x) if curve is None else ((partial(curve.value, x, work),), work)

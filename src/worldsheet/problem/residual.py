"""A residual layer with its derivative written out, ready to be stacked."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from worldsheet.core.shapes import Costate, Elsewhere, Point, State
from worldsheet.problem.steps import OffersStep, Step


@final
class ResidualLinear(nn.Module, OffersStep):
    """A pre-activated residual layer without bias, z + k φ(z) Wᵀ.

    Args:
        width: size of z.
        scale: k.
        rectify: φ = max(0, ·), else the identity.
    """

    def __init__(self, width: int, scale: float, *, rectify: bool) -> None:
        super().__init__()
        self.scale = scale
        self.rectify = rectify
        self.weight = Parameter(torch.randn(width, width))

    def forward(self, z: State) -> State:
        """One product and one sum."""
        active = torch.relu(z) if self.rectify else z
        return torch.add(z, active @ self.weight.t(), alpha=self.scale)

    def step(self) -> Step:
        """Jᵀc = c + k φ'(z)·(c W); the effort of W is k cᵀφ(z)."""
        return _Residual([self])


@final
class _Residual(Step):
    """One residual layer, or several of equal width on states (site, batch, width)."""

    __slots__ = ("_modules", "_weight")

    def __init__(self, modules: Sequence[ResidualLinear]) -> None:
        self._modules = modules
        self._weight = torch.stack([module.weight.detach() for module in modules]) if len(modules) > 1 else None

    def forward(self, x: Point) -> tuple[State, Point]:
        """One product and one sum; z is saved."""
        scale, weight = self._modules[0].scale, self._weight
        if weight is None:
            return torch.addmm(x, self._active(x), self._modules[0].weight.t(), alpha=scale), x
        return torch.baddbmm(x, self._active(x), weight.transpose(1, 2), alpha=scale), x

    def pull(self, credit: Costate, saved: Point) -> Elsewhere:
        """One product, one mask, one sum."""
        weight = self._modules[0].weight if self._weight is None else self._weight
        through = torch.matmul(credit, weight)
        if self._modules[0].rectify:
            through = torch.ops.aten.threshold_backward(through, saved, 0)
        return torch.add(credit, through, alpha=self._modules[0].scale)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One product, told apart by site."""
        products = torch.matmul(credit.transpose(-1, -2), self._active(saved)).mul_(self._modules[0].scale)
        parts = (products,) if self._weight is None else products.unbind()
        return tuple((m.weight, part) for m, part in zip(self._modules, parts, strict=True) if m.weight.requires_grad)

    @property
    def has_parameters(self) -> bool:
        """True."""
        return True

    def alike(self, other: Step) -> bool:
        """Equal width, scale and activation."""
        return isinstance(other, _Residual) and self._kind == other._kind

    def stacked(self, others: Sequence[Step]) -> Step:
        """One batched product."""
        return _Residual(
            [*self._modules, *(m for other in others if isinstance(other, _Residual) for m in other._modules)]
        )

    @property
    def _kind(self) -> tuple[int, float, bool]:
        return self._modules[0].weight.shape[0], self._modules[0].scale, self._modules[0].rectify

    def fits(self, x: Point) -> bool:
        """Rows of the weight's dtype."""
        return x.dim() == 2 + (self._weight is not None) and x.dtype == self._modules[0].weight.dtype

    def _active(self, z: State) -> State:
        return torch.relu(z) if self._modules[0].rectify else z

"""A residual layer with its derivative written out, ready to be stacked."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from worldsheet.core.shapes import Costate, Elsewhere, Point, State
from worldsheet.problem.stacks import RELU, ResidualStack, Stack
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
        return _Residual(self)


@final
class _Residual(Step):
    """One residual layer on rows."""

    __slots__ = ("_module",)

    def __init__(self, module: ResidualLinear) -> None:
        self._module = module

    def forward(self, x: Point) -> tuple[State, Point]:
        """One product and one sum; z is saved."""
        module = self._module
        return torch.addmm(x, self._active(x), module.weight.t(), alpha=module.scale), x

    def pull(self, credit: Costate, saved: Point) -> Elsewhere:
        """One product, one mask, one sum."""
        through = self._masked(torch.mm(credit, self._module.weight), saved)
        return torch.add(credit, through, alpha=self._module.scale)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One product."""
        weight = self._module.weight
        if not weight.requires_grad:
            return ()
        return ((weight, torch.mm(credit.t(), self._active(saved)).mul_(self._module.scale)),)

    @property
    def has_parameters(self) -> bool:
        """True."""
        return True

    def alike(self, other: Step) -> bool:
        """Equal width, scale and activation."""
        return isinstance(other, _Residual) and self._kind == other._kind

    def stacked(self, others: Sequence[Step]) -> Stack:
        """One batched product."""
        modules = [self._module, *(other._module for other in others if isinstance(other, _Residual))]
        weights = tuple(module.weight for module in modules)
        gathered = torch.stack([weight.detach() for weight in weights])
        return ResidualStack(weights, gathered, self._module.scale, RELU if self._module.rectify else None)

    @property
    def _kind(self) -> tuple[int, float, bool]:
        return self._module.weight.shape[0], self._module.scale, self._module.rectify

    def fits(self, x: Point) -> bool:
        """Rows of the weight's dtype."""
        return x.dim() == 2 and x.dtype == self._module.weight.dtype

    def _active(self, z: Tensor) -> Tensor:
        return torch.relu(z) if self._module.rectify else z

    def _masked(self, through: Tensor, z: Tensor) -> Tensor:
        return RELU.pulled(through, z, None) if self._module.rectify else through

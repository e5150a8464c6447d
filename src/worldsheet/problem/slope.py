"""The slope of a cost at a point, and how it turns: the cost alone is seen, no layer."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from worldsheet.core.shapes import Costate, Elsewhere, State


@final
class Slope:
    """∇C at an output, recorded so that it can be differentiated once more.

    Args:
        cost: C, a scalar function of the output.
        output: where.

    Attributes:
        value: ∇C.
    """

    def __init__(self, cost: Callable[[Tensor], Tensor], output: State) -> None:
        with torch.enable_grad():
            self._output = output.detach().requires_grad_()
            (self._slope,) = torch.autograd.grad(cost(self._output), self._output, create_graph=True)
        self.value: Costate = self._slope.detach()

    def turned(self, tangent: Elsewhere) -> Elsewhere:
        """∇²C v; zero for a cost that is linear in the output."""
        if not self._slope.requires_grad:
            return torch.zeros_like(tangent)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            self._slope, self._output, tangent, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(tangent) if found[0] is None else found[0]

"""Activations whose derivative is a function of their value, so that nothing but y need be kept of y = φ(x)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Curve:
    """An activation φ whose derivative is a function of y = φ(x), each into `out` where it is given.

    Attributes:
        value: maps (x, out) to φ(x).
        slope: torch's own kernel of (c, y) to φ'·c.
        constants: what else that kernel is given.
        into: the same kernel with memory to write to.
    """

    value: Callable[[Tensor, Tensor | None], Tensor]
    slope: Any
    constants: tuple[float, ...] = ()
    into: Any = field(init=False)

    def __post_init__(self) -> None:
        """Look the second kernel up once."""
        object.__setattr__(self, "into", self.slope.grad_input)

    def pulled(self, credit: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
        """φ'·c; `out` may be c."""
        if out is None:
            return cast(Tensor, self.slope(credit, y, *self.constants))
        return cast(Tensor, self.into(credit, y, *self.constants, grad_input=out))


TANH = Curve(lambda x, out: torch.tanh(x, out=out), torch.ops.aten.tanh_backward)
SIGMOID = Curve(lambda x, out: torch.sigmoid(x, out=out), torch.ops.aten.sigmoid_backward)
RELU = Curve(lambda x, out: torch.clamp_min(x, 0, out=out), torch.ops.aten.threshold_backward, (0.0,))

"""Activations whose derivative is a function of their value, so that nothing but y need be kept of y = φ(x)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Curve:
    """An activation φ whose derivative is a function of y = φ(x), each into `out` where it is given.

    Attributes:
        value: torch's own kernel of x, with `out`.
        slope: torch's own kernel of (c, y) to φ'·c.
        constants: what else that kernel is given.
        by_either: whether the derivative may be read of x as well as of y.
        into: the same kernel with memory to write to.
    """

    value: Callable[..., Tensor]
    slope: Any
    constants: tuple[float, ...] = ()
    by_either: bool = False
    into: Any = field(init=False)

    def __post_init__(self) -> None:
        """Look the second kernel up once."""
        object.__setattr__(self, "into", self.slope.grad_input)

    def pulled(self, credit: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
        """φ'·c; `out` may be c."""
        if out is None:
            return cast(Tensor, self.slope(credit, y, *self.constants))
        return cast(Tensor, self.into(credit, y, *self.constants, grad_input=out))


TANH = Curve(torch.tanh, torch.ops.aten.tanh_backward)
SIGMOID = Curve(torch.sigmoid, torch.ops.aten.sigmoid_backward)
RELU = Curve(partial(torch.clamp_min, min=0), torch.ops.aten.threshold_backward, (0.0,), by_either=True)

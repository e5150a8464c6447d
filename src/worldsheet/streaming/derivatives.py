"""The derivatives of a user's function at one instant: the only place in this folder where autograd works."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev

from worldsheet.streaming.shapes import Signal, Target


def value_and_gradient(
    function: Callable[[Tensor, Tensor], Tensor], output: Signal, target: Target
) -> tuple[Tensor, Signal]:
    """A potential V(output, target) per stream and its gradient in the output, nothing before the output being seen."""
    with torch.enable_grad():
        point = output.detach().requires_grad_()
        value = function(point, target)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient


def jacobian(function: Callable[..., Tensor], *points: Any, argument: int = 0) -> Any:
    """∂function/∂points[argument]; one matrix per tensor where the argument holds several."""
    return jacrev(function, argnums=argument)(*points)

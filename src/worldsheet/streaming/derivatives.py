"""Derivatives of a user's functions at one instant: the only place in this folder where autograd works."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from worldsheet.streaming.shapes import Signal, TargetValues


def value_and_gradient(
    function: Callable[[Tensor, Tensor], Tensor], output: Signal, target: TargetValues
) -> tuple[Tensor, Signal]:
    """A potential V(output, target) per stream and its gradient in the output, nothing before the output being seen."""
    with torch.enable_grad():
        point = output.detach().requires_grad_()
        value = function(point, target)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient


def gradients(function: Callable[..., Tensor], *points: Tensor) -> tuple[Tensor, ...]:
    """The slopes of a scalar function in each of its arguments."""
    with torch.enable_grad():
        leaves = tuple(point.detach().requires_grad_() for point in points)
        return torch.autograd.grad(function(*leaves), leaves)


def output_jacobians(module: nn.Module, weights: Mapping[str, Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
    """∂output/∂weights, one row per output, all weights in one line, and ∂output/∂point, of a module at one point."""

    def output(named: dict[str, Tensor], at: Tensor) -> Tensor:
        found: Tensor = functional_call(module, named, (at,))
        return found

    by_name, by_point = jacrev(output, argnums=(0, 1))(dict(weights), point)
    return torch.cat([block.flatten(1) for block in by_name.values()], 1), by_point

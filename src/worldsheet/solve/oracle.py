"""The oracle: end-to-end automatic differentiation, for comparison only, in this file and nowhere else."""

import torch
from torch import Tensor

from worldsheet.problem import Caller


def autograd_gradients(caller: Caller, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Backprop's gradients of the composed layers, with the random numbers that the relaxation drew.

    Returns:
        Parameters that require grad and that the loss depends on, each with its gradient.
    """
    with torch.enable_grad():
        states: list[Tensor] = [x.detach()]
        for layer in range(1, caller.head + 1):
            states.append(caller.function(layer)(*(states[parent] for parent in caller.parents[layer])))
        leaves = list({id(p): p for traits in caller.traits for p in traits.parameters}.values())
        found: tuple[Tensor | None, ...] = ()
        if leaves:
            found = torch.autograd.grad(states[-1], leaves, allow_unused=True)
    return [(leaf, gradient) for leaf, gradient in zip(leaves, found, strict=True) if gradient is not None]

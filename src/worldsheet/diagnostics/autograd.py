"""The oracle: end-to-end automatic differentiation, for comparison only, in this file and nowhere else."""

from typing import Any

import torch
from torch import Tensor, nn

from worldsheet.core.problem import Problem
from worldsheet.cut import call_of, leaves_below
from worldsheet.problem import Chain


def autograd_gradients(problem: Problem, x: Any) -> list[tuple[Tensor, Tensor]]:
    """Backprop's gradients of the whole problem, with the random numbers that the relaxation drew.

    Returns:
        Parameters and inputs that require grad and that the loss depends on, each with its gradient.
    """
    cost = problem.whole(x)
    leaves = leaves_below(cost)
    found: tuple[Tensor | None, ...] = ()
    if leaves:
        found = torch.autograd.grad(cost, leaves, allow_unused=True)
    return [(leaf, gradient) for leaf, gradient in zip(leaves, found, strict=True) if gradient is not None]


def autograd_backward(chain: Chain, x: Any, target: Any) -> Tensor:
    """One ordinary forward and backward pass: what `backward` is measured against in training.

    It is `loss(module(x), target).backward()` and nothing besides: a list of states held until the end would cost
    backprop memory that it does not need, and a change of grad mode costs microseconds.

    Returns:
        The loss, a scalar without graph; gradients are added to `.grad`.
    """
    if not torch.is_grad_enabled():
        with torch.enable_grad():
            return autograd_backward(chain, x, target)
    loss: Tensor = chain.loss(_output(chain, x), target)
    autograd_accumulate(loss)
    return loss.detach()


def autograd_accumulate(loss: Tensor) -> None:
    """Backprop from a loss to `.grad` of whatever it depends on, hooks included."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def autograd_gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """Backprop through whatever was recorded on the way from a leaf to a loss: through time, for example."""
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def _output(chain: Chain, x: Any) -> Any:
    """The user's own module where it can be called as a whole, else its layers composed."""
    if isinstance(chain.module, nn.Module) and not isinstance(chain.module, nn.ModuleList):
        args, kwargs = ((x,), {}) if chain.is_path else call_of(x)
        return chain.module(*args, **kwargs)
    state = x
    for layer in chain.layers:
        state = layer.module(state)
    return state

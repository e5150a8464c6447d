"""Two runs of one model from the same seeds, one of them autograd's own, and all that they may differ in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import worldsheet as ws
from nets import assert_gradients

Loss = Callable[[Any, Any], Tensor]

SEED = 3


def own_loss(output: Any, target: Any) -> Tensor:
    """The loss that a model has computed itself."""
    return output.loss


def square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def everywhere(part: nn.Module) -> bool:
    """Makes a site of every submodule."""
    return True


def seed_all(seed: int) -> None:
    """All generators that these models draw from."""
    torch.manual_seed(seed)
    numpy.random.seed(seed)


def generators() -> tuple[Any, ...]:
    """The states of the same. Python's own belongs to whoever checks the types of arguments while the tests run."""
    state = numpy.random.get_state(legacy=False)
    words = state["state"]
    return torch.get_rng_state().tolist(), words["key"].tolist(), words["pos"], state["has_gauss"], state["gauss"]


class Problem(NamedTuple):
    """A model with random weights, what it is called with, and the loss.

    Attributes:
        module: the model.
        x: arguments: a tensor, a tuple, or a dict of arguments by name.
        target: what the loss is given besides the output.
        loss: maps output and target to a scalar.
    """

    module: nn.Module
    x: Any
    target: Any = None
    loss: Loss = own_loss

    def called(self) -> Tensor:
        """The loss of a plain forward."""
        if isinstance(self.x, dict):
            output = self.module(**self.x)
        else:
            output = self.module(*self.x) if isinstance(self.x, tuple) else self.module(self.x)
        return self.loss(output, self.target)


Make = Callable[[], Problem]
"""Makes the same problem anew at each call. A deep copy of a model would have lost the hooks on its parameters."""


def made(make: Make, seed: int = 0) -> Problem:
    seed_all(seed)
    return make()


class Answer(NamedTuple):
    """What a backward pass leaves behind.

    Attributes:
        loss: its value.
        gradients: by name of the parameter, or number of the tensor in the input; None where there is none.
        tensors: buffers, parameters and the input.
        generators: their states.
    """

    loss: Tensor
    gradients: dict[str, Tensor | None]
    tensors: dict[str, Tensor]
    generators: tuple[Any, ...]


def left_by(problem: Problem, loss: Tensor) -> Answer:
    named = dict(problem.module.named_parameters())
    leaves = {f"input {k}": leaf for k, leaf in enumerate(pytree.tree_leaves(problem.x)) if isinstance(leaf, Tensor)}
    return Answer(
        loss.detach(),
        {name: leaf.grad for name, leaf in (named | leaves).items()},
        dict(problem.module.named_buffers()) | {name: leaf.detach() for name, leaf in (named | leaves).items()},
        generators(),
    )


def autograd(make: Make) -> Answer:
    """`loss.backward()` and what it leaves behind."""
    problem = made(make)
    seed_all(SEED)
    loss = problem.called()
    loss.backward()
    return left_by(problem, loss)


def found(gradients: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Without those that are None."""
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def assert_same(ours: Answer, wanted: Answer, tol: float = 1e-10) -> None:
    """Loss and gradients to `tol`, everything else to the bit."""
    assert float((ours.loss - wanted.loss).abs()) <= tol * float(wanted.loss.abs())
    assert found(wanted.gradients)
    assert_gradients(found(ours.gradients), found(wanted.gradients), tol)
    assert ours.tensors.keys() == wanted.tensors.keys()
    changed = [name for name, tensor in wanted.tensors.items() if not torch.equal(ours.tensors[name], tensor)]
    assert not changed
    assert ours.generators == wanted.generators


def assert_backprop(make: Make, tol: float = 1e-10, blocks: Any = None, *, recompute: bool = False) -> None:
    """`ws.backward` leaves what `loss.backward()` leaves.

    Args:
        make: the problem.
        tol: relative error of each gradient.
        blocks: which submodules are sites.
        recompute: keep nothing of the insides of sites.
    """
    problem = made(make)
    chain = ws.Chain(problem.module, problem.loss, blocks=blocks)
    seed_all(SEED)
    loss = ws.backward(chain, problem.x, problem.target, recompute=recompute)
    assert_same(left_by(problem, loss), autograd(make), tol)


def relaxed(make: Make, *, blocks: Any = None, **choice: Any) -> tuple[ws.Solution, Answer]:
    """`ws.relax` with further arguments, and what it leaves once its gradients are accumulated."""
    problem = made(make)
    chain = ws.Chain(problem.module, problem.loss, blocks=blocks)
    seed_all(SEED)
    sol = ws.relax(chain, problem.x, problem.target, **choice)
    sol.accumulate()
    given = {f"input {k}": gradient for k, gradient in enumerate(pytree.tree_leaves(sol.input_gradient))}
    answer = left_by(problem, sol.loss)
    return sol, answer._replace(gradients=answer.gradients | given)

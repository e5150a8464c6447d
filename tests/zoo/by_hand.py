"""The messages of a tick from autograd alone: hooks put the states in where submodules return."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.answers import SEED, Problem, seed_all


class Seen(NamedTuple):
    """A forward at given states.

    Attributes:
        predictions: what each submodule returned, with its graph down to the states below.
        cost: the loss, with its graph down to the states that it reads.
    """

    predictions: list[Tensor]
    cost: Tensor


class ByHand:
    """A problem whose submodules of some names return once each, in this order, whatever else they return.

    Args:
        problem: the model and what it is called with.
        names: of the submodules.
    """

    def __init__(self, problem: Problem, names: Sequence[str]) -> None:
        self._problem = problem
        self._parts = [problem.module.get_submodule(name) for name in names]

    def at(self, states: Sequence[Tensor]) -> Seen:
        """The forward with these states, of the first submodules if there are fewer; its random numbers are the same.

        Without any states it is the model's own.
        """
        predictions: list[Tensor] = []

        def put(part: nn.Module, args: object, prediction: Tensor) -> Tensor | None:
            place = len(predictions)
            assert part is self._parts[place]
            predictions.append(prediction)
            return states[place] if place < len(states) else None

        handles = [part.register_forward_hook(put) for part in self._parts]
        try:
            seed_all(SEED)
            return Seen(predictions, self._problem.called())
        finally:
            for handle in handles:
                handle.remove()

    def forward_pass(self) -> list[Tensor]:
        """Every state its prediction."""
        return [prediction.detach() for prediction in self.at([]).predictions]

    def messages(self, states: Sequence[Tensor], credits: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predictions at the states, and what the cost and the credits of all predictions are pulled back to."""
        leaves = [state.detach().requires_grad_() for state in states]
        seen = self.at(leaves)
        pairs = zip(credits, seen.predictions, strict=False)  # the cost pulls through a prediction that is its own
        total = seen.cost + sum((credit * prediction).sum() for credit, prediction in pairs)
        found: Sequence[Tensor | None] = torch.autograd.grad(total, leaves, allow_unused=True)
        pulled = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
        return [prediction.detach() for prediction in seen.predictions], pulled

    def energy(self, states: Sequence[Tensor], precision: float, samples: int) -> Tensor:
        """C + ρ/2B Σ ‖f_l − x_l‖² over the given states; outputs beyond them are predictions."""
        seen = self.at(states)
        errors = [(p - x).square().sum() for p, x in zip(seen.predictions, states, strict=False)]
        return seen.cost + precision / (2 * samples) * sum(errors)

    def slopes(self, states: Sequence[Tensor], precision: float, samples: int) -> list[Tensor]:
        """Of the energy in the states."""
        leaves = [state.detach().requires_grad_() for state in states]
        return list(torch.autograd.grad(self.energy(leaves, precision, samples), leaves))

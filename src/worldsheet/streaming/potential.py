"""Potentials: what the outputs of a network cost at an instant."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot

from worldsheet.core.errors import InputError
from worldsheet.streaming.derivatives import value_and_gradient
from worldsheet.streaming.shapes import PerStream, Signal, TargetValues


class Potential(ABC):
    """V(output, target), per stream."""

    @abstractmethod
    def value_and_gradient(self, output: Signal, target: TargetValues) -> tuple[PerStream, Signal]:
        """V and ∂V/∂output."""

    @property
    def classes(self) -> bool:
        """Whether a target is one class per stream instead of one number per output."""
        return False


@final
@dataclass(frozen=True)
class Squared(Potential):
    """q/2 ‖output − target‖².

    Args:
        weight: q.

    Raises:
        InputError: a weight that is not positive.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what attracts nothing."""
        _refuse_not_positive("Squared", weight=self.weight)

    def value_and_gradient(self, output: Signal, target: TargetValues) -> tuple[PerStream, Signal]:
        """q/2 ‖e‖² and q e."""
        error = output - target
        gradient = error if self.weight == 1 else self.weight * error
        return torch.linalg.vecdot(error, gradient) / 2, gradient


@final
@dataclass(frozen=True)
class CrossEntropy(Potential):
    """q times the cross-entropy of softmax(gain · output) against a class, in nats.

    Args:
        gain: what the outputs, which an activation may bound, are multiplied by.
        weight: q.

    Raises:
        InputError: a gain or weight that is not positive.
    """

    gain: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what attracts nothing."""
        _refuse_not_positive("CrossEntropy", gain=self.gain, weight=self.weight)

    @property
    def classes(self) -> bool:
        """One class per stream."""
        return True

    def value_and_gradient(self, output: Signal, target: TargetValues) -> tuple[PerStream, Signal]:
        """−q log softmax and q gain (softmax − one-hot)."""
        logarithms = log_softmax(self.gain * output, 1)
        right = one_hot(target, output.shape[1])
        return -self.weight * (logarithms * right).sum(1), self.weight * self.gain * (logarithms.exp() - right)


@final
@dataclass(frozen=True)
class Custom(Potential):
    """A function of the user's own, differentiated in the output at each instant.

    Args:
        function: V(output, target) of shapes (streams, outputs) and (streams, …), one number per stream; differentiable
            in the output.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def value_and_gradient(self, output: Signal, target: TargetValues) -> tuple[PerStream, Signal]:
        """V and its gradient by autograd.

        Raises:
            InputError: not one number per stream.
        """
        value, gradient = value_and_gradient(self.function, output, target)
        if value.shape != output.shape[:1]:
            raise InputError(
                f"the potential returned shape {tuple(value.shape)} for {len(output)} streams",
                f"one number per stream, shape ({len(output)},)",
                "sum over the last dimension only",
            )
        return value, gradient


def _refuse_not_positive(name: str, **values: float) -> None:
    for argument, value in values.items():
        if not (isfinite(value) and value > 0):
            raise InputError(
                f"{name}: {argument} must be a positive finite number, got {value}",
                "a number above 0",
                f"leave {argument} out",
            )

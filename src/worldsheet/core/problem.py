"""What a relaxation was of, for whoever compares it with something else."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class Problem(ABC):
    """The user's functions with one target, which draw again what they drew in the relaxation.

    Attributes:
        target: what the loss compares the output with.
    """

    target: Any

    @abstractmethod
    def undo(self) -> None:
        """Make modules and generators what they were before the first evaluation."""

    @abstractmethod
    def whole(self, x: Any) -> Tensor:
        """The cost as one function of the input, recorded end to end: for the oracle, and nobody else."""

"""Which parameters a packet sees on its way up, and its credit on its way back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor


class Weights(ABC):
    """What stands for the parameters while a packet is in flight. Every concrete choice is final."""

    @property
    @abstractmethod
    def keeps(self) -> bool:
        """Whether the credit is pulled back through the very values that the packet saw."""

    @abstractmethod
    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        """Values for packets that pass until the next update; None for the parameters themselves.

        Args:
            now: the parameters.
            before: the parameters as they were one update ago.
            delay: updates until the credits of these packets are answered.
        """


@final
@dataclass(frozen=True)
class Current(Weights):
    """The parameters as they are at each moment: up through θ now, back through θ then. No copies, not a gradient."""

    @property
    def keeps(self) -> bool:
        """False."""
        return False

    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        """The parameters themselves."""
        return None


@final
@dataclass(frozen=True)
class Stashed(Weights):
    """The parameters at the way up, kept for the way back: a gradient, of a stale network. One copy per update."""

    @property
    def keeps(self) -> bool:
        """True."""
        return True

    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        """A copy, since optimizers write into parameters."""
        return [tensor.clone() for tensor in now] if delay else None


@final
@dataclass(frozen=True)
class Predicted(Weights):
    """Where the parameters will be when the credit is answered, if they flow on as they do: θ + s (θ − θ_before).

    The last step is taken from the parameters themselves, so this holds for SGD, momentum, Adam, AdamW and any other
    optimizer. The credit is pulled back through the same values. One copy per update.

    Args:
        horizon: s as a multiple of the delay.
    """

    horizon: float = 1.0

    @property
    def keeps(self) -> bool:
        """True."""
        return True

    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        """θ + s (θ − θ_before)."""
        if not delay:
            return None
        return [a.lerp(b, -self.horizon * delay) for a, b in zip(now, before, strict=True)]

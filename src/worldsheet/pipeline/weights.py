"""Which parameters a packet sees on its way up, and its credit on its way back; how they answer it late."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.ports import BiasCentered, RateBounded, Resisted, Slowed


class Weights(ABC):
    """What stands for the parameters while a packet is in flight. Every concrete choice is final."""

    @property
    @abstractmethod
    def keeps(self) -> bool:
        """Whether the credit is pulled back through the very values that the packet saw."""

    @property
    def compensates(self) -> bool:
        """Whether rates or foresight are set for the delay, which is then to occur."""
        return False

    @abstractmethod
    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        """Values for packets that pass until the next update; None for the parameters themselves.

        Args:
            now: the parameters.
            before: the parameters as they were one update ago.
            delay: updates until the credits of these packets are answered.
        """

    def port(self, port: Optimizer, layers: Sequence[nn.Module], delay: float) -> Optimizer:
        """How a stage's parameters answer credits that are late; as the optimizer has it, unless a choice knows better.

        Args:
            port: the optimizer of all parameters of the stage, which may be changed in place.
            layers: the stage's modules.
            delay: updates between a packet and its credit.
        """
        return port


@final
@dataclass(frozen=True)
class Current(Weights):
    """The parameters as they are at each moment: up through θ now, back through θ then. No copies, not a gradient."""

    @property
    @override
    def keeps(self) -> bool:
        return False

    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        """The parameters themselves."""
        return None


@final
@dataclass(frozen=True)
class Stashed(Weights):
    """The parameters at the way up, kept for the way back: a gradient, of a stale network. One copy per update."""

    @property
    @override
    def keeps(self) -> bool:
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
    @override
    def compensates(self) -> bool:
        return bool(self.horizon)

    @property
    @override
    def keeps(self) -> bool:
        return True

    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        """θ + s (θ − θ_before)."""
        if not delay:
            return None
        return [a.lerp(b, -self.horizon * delay) for a, b in zip(now, before, strict=True)]


@dataclass(frozen=True)
class Compensating(Weights):
    """What packets see as another choice has it, with ports that are set for the delay. Every concrete kind is final.

    Args:
        inner: what packets see.
    """

    inner: Weights = field(default_factory=Predicted)

    @property
    @override
    def compensates(self) -> bool:
        return True

    @property
    @override
    def keeps(self) -> bool:
        return self.inner.keeps

    @override
    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        return self.inner.seen(now, before, delay)

    @override
    def port(self, port: Optimizer, layers: Sequence[nn.Module], delay: float) -> Optimizer:
        """As `inner` has it without delay, and else as this choice does."""
        inner = self.inner.port(port, layers, delay)
        return self.late(inner, layers, delay) if delay else inner

    @abstractmethod
    def late(self, port: Optimizer, layers: Sequence[nn.Module], delay: float) -> Optimizer:
        """How a stage's parameters answer credits that are late by `delay` > 0 updates.

        Args:
            port: the optimizer of all parameters of the stage.
            layers: the stage's modules.
            delay: updates between a packet and its credit.
        """


@dataclass(frozen=True)
class Grounding(Compensating):
    """A choice under which the weights of stages that are late enough do not feel what all their inputs share.

    Args:
        inner: what packets see.
        centering_delay: the largest delay, in updates, at which weights still feel the mean of their inputs.

    Raises:
        InputError: a negative `centering_delay`.
    """

    centering_delay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no delay."""
        if not self.centering_delay >= 0:
            raise InputError(
                f"centering_delay must be 0 or more updates, got {self.centering_delay}",
                "0 or more updates",
                "use centering_delay=0 to ground every late stage",
            )

    def late(self, port: Optimizer, layers: Sequence[nn.Module], delay: float) -> Optimizer:
        """Timed, and grounded where it is later than `centering_delay`."""
        timed = self.timed(port, delay)
        return BiasCentered(timed, layers) if delay > self.centering_delay else timed

    @abstractmethod
    def timed(self, port: Optimizer, delay: float) -> Optimizer:
        """The rates and the memory of a late port."""


@final
@dataclass(frozen=True)
class DelayCompensated(Grounding):
    """Ports that stay passive although efforts are late: mass, a grounded bias, and foresight.

    A stage whose credits come d updates late remembers efforts 1 + d times as long and has √(1 + d) times the
    resistance (`ports.Slowed`), and packets see what `inner` shows, which is where parameters will be 2 d updates on.
    Mass keeps the course straight for as long as the foresight looks ahead; the foresight is the phase lead that makes
    up for the lag of delay and mass; apart they do little (P5). The weights of a stage that is later than
    `centering_delay` do not feel what all inputs share (`ports.BiasCentered`); stages near the cost, which answer
    promptly, keep their quick hold on it, which late ones cannot have. A stage with d = 0 is left as it is, so that a
    `Locked` pipeline is one process to the last bit.

    The optimizer is meant to be the one, with the rate, that is best without delay; nothing else is set.

    Args:
        inner: what packets see.
        centering_delay: the largest delay, in updates, at which weights still feel the mean of their inputs.

    Raises:
        InputError: a negative `centering_delay`.
    """

    inner: Weights = field(default_factory=lambda: Predicted(horizon=2.0))
    centering_delay: float = 2.0

    def timed(self, port: Optimizer, delay: float) -> Optimizer:
        """Slowed."""
        return Slowed(port, delay)


@final
@dataclass(frozen=True)
class StalenessAware(Compensating):
    """Rates that a stage lowers by its own delay, lr/(1 + d)^p, with as much memory as without delay (P6).

    PipeMare without its second technique is `StalenessAware(Current(), power=1, over=K)`.

    Args:
        inner: what packets see.
        power: p.
        over: after how many updates p has fallen to zero; None for a p that stays.

    Raises:
        InputError: when a pipeline is made, a power that is not finite, or `over` below 1.
    """

    power: float = 0.5
    over: int | None = None

    def late(self, port: Optimizer, layers: Sequence[nn.Module], delay: float) -> Optimizer:
        """With the resistance of its delay."""
        return Resisted(port, delay, self.power, self.over)


@final
@dataclass(frozen=True)
class DelayBounded(Grounding):
    """The rule for language models that are trained by Muon and AdamW: foresight, grounded weights, bounded rates.

    Packets see what `inner` shows, which is where the parameters will be. The weights of stages that are later than
    `centering_delay` do not feel what all inputs share (`ports.BiasCentered`). The rate is at most the largest one that
    there has been, divided by √(1 + d) for Muon and by 1 + d for other optimizers (`ports.RateBounded`); memory is as
    without delay. A rate of Muon is a speed, whatever its momentum (P3), so that d (θ − θ_before) is the way of d more
    steps at the rate that is taken. A stage with d = 0 is left as it is.

    The optimizers are meant to be the ones, with the rates, that are best without delay; nothing else is set.

    Args:
        inner: what packets see.
        centering_delay: the largest delay, in updates, at which weights still feel the mean of their inputs.

    Raises:
        InputError: a negative `centering_delay`.
    """

    def timed(self, port: Optimizer, delay: float) -> Optimizer:
        """With bounded rates."""
        return RateBounded(port, delay)

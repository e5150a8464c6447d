"""What packets weigh in the update that they share, so that it is that of one batch of all of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import isfinite
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from worldsheet.core.bundle import Bundle, Parcel
from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import tree_leaves

Weight: TypeAlias = float | Tensor
"""A number, or a scalar tensor where the host would have to wait for a device to know it."""

Weigh: TypeAlias = Callable[[Any], Weight]
"""What a packet weighs by its target: how many samples, tokens or elements its loss is the mean of."""


@final
@dataclass(frozen=True)
class Share:
    """What the loss of a packet is multiplied with.

    Args:
        value: w_k / Σ w.
        careful: whether the loss may have a gradient that is not finite where a packet weighs nothing.
    """

    value: Weight = 1.0
    careful: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether the host knows that the packet weighs nothing."""
        return not isinstance(self.value, Tensor) and not self.value

    def credit(self, loss: Tensor) -> Tensor:
        """The credit of the loss."""
        if isinstance(self.value, Tensor):
            return self.value.to(loss).reshape(loss.shape)
        return torch.full_like(loss, self.value)

    def of_output(self, credit: Parcel | None) -> Parcel | None:
        """The credit of the output, 0 where the packet weighs nothing."""
        if credit is None or not self.careful:
            return credit
        return credit.map(self._of_tensor) if isinstance(credit, Bundle) else self._of_tensor(credit)

    def _of_tensor(self, credit: Tensor) -> Tensor:
        if isinstance(self.value, Tensor):
            return torch.where(self.value.to(credit.device) > 0, credit, 0)
        return torch.zeros_like(credit) if self.is_nothing else credit


class PacketWeights(ABC):
    """What the loss of one packet counts for among those of an update. Every concrete kind is final."""

    @property
    def careful(self) -> bool:
        """Whether a packet that weighs nothing may have a gradient that is not finite."""
        return True

    @abstractmethod
    def weight(self, x: Any, target: Any) -> Weight:
        """w of a packet."""

    def shares(self, weights: Sequence[Weight]) -> list[Share]:
        """w_k / Σ w of the packets of one update; all 0 if all weigh nothing."""
        if any(isinstance(weight, Tensor) for weight in weights):
            return [Share(value, self.careful) for value in _shares_on_device(weights)]
        exact = [Fraction(float(weight)) for weight in weights]
        total = sum(exact)
        return [Share(float(weight / total) if total else 0.0, self.careful) for weight in exact]


@final
@dataclass(frozen=True)
class Summed(PacketWeights):
    """A loss that is a sum: the sum of all packets is meant, and nothing is averaged."""

    @override
    def weight(self, x: Any, target: Any) -> Weight:
        return 1.0

    @override
    def shares(self, weights: Sequence[Weight]) -> list[Share]:
        return [Share() for _ in weights]


@final
@dataclass(frozen=True)
class Samples(PacketWeights):
    """A mean over the first dimension of the target, or of x where the target is no tensor or has none."""

    @override
    def weight(self, x: Any, target: Any) -> Weight:
        for given in (target, x):
            for leaf in tree_leaves(given):
                if isinstance(leaf, Tensor) and leaf.dim():
                    return float(len(leaf))
        return 1.0


@final
@dataclass(frozen=True)
class Elements(PacketWeights):
    """A mean over all elements of the target."""

    @override
    def weight(self, x: Any, target: Any) -> Weight:
        return float(target.numel()) if isinstance(target, Tensor) else _SAMPLES.weight(x, target)


@final
@dataclass(frozen=True)
class Classes(PacketWeights):
    """A mean over the targets that are not ignored, each by the weight of its class.

    Args:
        ignored: the index that stands for no class, as at padding.
        by_class: the weight of each class; None for 1.
    """

    ignored: int = -100
    by_class: Tensor | None = None

    @property
    @override
    def careful(self) -> bool:
        return False  # torch's gradient of a mean over nothing is 0

    @override
    def weight(self, x: Any, target: Any) -> Weight:
        if not isinstance(target, Tensor):
            return _SAMPLES.weight(x, target)  # the loss itself will say what is wrong
        if target.is_floating_point():  # probabilities of the classes, which stand in the second dimension
            return float(target.numel() // target.shape[min(target.dim() - 1, 1)])
        counts = target != self.ignored
        if self.by_class is None:
            return counts.sum().double()
        known = self.by_class.to(target.device, torch.float64)
        return (known[torch.where(counts, target, 0)] * counts).sum()


@final
@dataclass(frozen=True)
class Weighed(PacketWeights):
    """What the user says.

    Args:
        weigh: is asked about the target of each packet.

    Raises:
        InputError: an answer that is no number, negative, or not finite.
    """

    weigh: Weigh

    @override
    def weight(self, x: Any, target: Any) -> Weight:
        found = self.weigh(target)
        if isinstance(found, Tensor) and found.numel() == 1:
            return found.detach().double().reshape(())
        if isinstance(found, (int, float)) and isfinite(found) and found >= 0:
            return float(found)
        shown = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise InputError(
            f"weigh(target) must be a number that is 0 or more, got {shown}",
            "a number, or a tensor with one element",
            "return how many samples or tokens of the target the loss averages over: lambda t: (t != -100).sum()",
        )


def weights_of(loss: Callable[..., Any], weigh: Weigh | None) -> PacketWeights:
    """How packets weigh under a loss: by what it averages over, where that is known, or by what the user says."""
    if weigh is not None:
        return Weighed(weigh)
    known = _as_module(loss)
    if getattr(known, "reduction", None) == "sum":
        return Summed()
    if isinstance(known, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return Classes(known.ignore_index, known.weight)
    averages_samples = isinstance(known, nn.KLDivLoss) and known.reduction == "batchmean"
    return Elements() if isinstance(known, _ELEMENTWISE) and not averages_samples else Samples()


_SAMPLES = Samples()

_ELEMENTWISE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.KLDivLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
    nn.HingeEmbeddingLoss,
)

_FUNCTIONS: Mapping[Callable[..., Any], Callable[..., nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.kl_div: nn.KLDivLoss,
}
"""Functions with the modules that take the same options."""


def _as_module(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The module that does what one of torch's functions does, also with options that `partial` has set."""
    options = dict(loss.keywords) if isinstance(loss, partial) and not loss.args else {}
    function = loss.func if isinstance(loss, partial) else loss
    module = next((module for known, module in _FUNCTIONS.items() if known is function), None)
    return loss if module is None else module(**options)


def _shares_on_device(weights: Sequence[Weight]) -> list[Tensor]:
    """Nobody waits for the device: shares stay tensors."""
    device = next(weight.device for weight in weights if isinstance(weight, Tensor))
    all_of_them = [torch.as_tensor(weight, dtype=torch.float64, device=device) for weight in weights]
    total = torch.stack(all_of_them).sum()
    nothing = total == 0
    return [weight / torch.where(nothing, 1.0, total) for weight in all_of_them]

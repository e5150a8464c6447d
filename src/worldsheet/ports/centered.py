"""A port whose weights do not feel what all inputs share."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.ports.around import Around

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Pair(NamedTuple):
    """A weight (out, …) and the bias (out) beside it."""

    weight: Tensor
    bias: Tensor

    @property
    def efforts(self) -> tuple[Tensor, Tensor] | None:
        """e_W and e_b, if both are there."""
        if self.weight.grad is None or self.bias.grad is None:
            return None
        return self.weight.grad, self.bias.grad


@final
class BiasCentered(Around):
    """A port around a port: the mean x̂ of a layer's input moves its bias and no longer its weight.

    y = W x + b is also y = W (x − x̂) + b̂ with b̂ = b + W x̂, the bias grounded at the common mode x̂. The inner port
    moves W and b̂ as if they were the parameters:

        e_W ← e_W − e_b x̂ᵀ,     the inner port's step,     b ← b − ΔW x̂                              (P1)

    For the inner port the input's second moment is then its covariance and not that plus x̂ x̂ᵀ, which is by far the
    largest curvature of a layer whose inputs are pixels or ReLUs, and the first to ring when efforts are late. x̂ is
    read off the efforts, as what makes e_b x̂ᵀ closest to e_W, so that nothing needs to be observed:

        x̂ = Σ e_Wᵀ e_b / Σ |e_b|²     over past steps, older ones forgotten                           (P2)

    the mean of the inputs of all samples, those with large credits counting more. Any x̂ leaves the fixed points of
    the inner port what they are. Layers without a bias, with groups, or of another kind are the inner port's alone.

    Cost per step: five passes over the weights, none of them copied. Groups and states are the inner port's.

    Args:
        port: any optimizer.
        layers: modules whose parameters it moves; `nn.Linear` and convolutions in them are grounded.
        memory: how much of the old sums is kept at each step.

    Raises:
        InputError: a memory outside [0, 1).
    """

    def __init__(self, port: Optimizer, layers: Iterable[nn.Module], memory: float = 0.98) -> None:
        if not 0 <= memory < 1:
            raise InputError(
                f"BiasCentered: memory must be at least 0 and below 1, got {memory}",
                "the share of a mean that a step keeps",
                "use 0.98: fifty steps",
            )
        super().__init__(port)
        self._memory = memory
        self._pairs = _pairs(layers, {id(p) for group in port.param_groups for p in group["params"]})

    @override
    def move(self) -> None:
        """Ground the efforts, let the inner port move, and carry its motion back to W and b."""
        (port,) = self.ports
        moving = [(pair, efforts) for pair in self._pairs if (efforts := pair.efforts) is not None]
        sums = [self._sums(pair.weight, *efforts) for pair, efforts in moving]
        means = [along / square.clamp_min(torch.finfo(square.dtype).tiny) for along, square in sums]
        before = [_carried(pair.weight, mean) for (pair, _), mean in zip(moving, means, strict=True)]
        for (_, (of_weight, of_bias)), mean in zip(moving, means, strict=True):
            of_weight.addcmul_(of_bias.reshape(-1, *[1] * mean.dim()), mean, value=-1)
        port.step()
        for (pair, _), mean, old in zip(moving, means, before, strict=True):
            pair.bias.sub_(_carried(pair.weight, mean) - old)
        for (pair, _), (along, square) in zip(moving, sums, strict=True):  # inner ports begin with an empty state
            self.state[pair.weight].update(common_along=along, common_square=square)

    def _sums(self, weight: Tensor, of_weight: Tensor, of_bias: Tensor) -> tuple[Tensor, Tensor]:
        """The two sums of (P2), this step's efforts included."""
        along = (of_bias @ of_weight.flatten(1)).view(of_weight.shape[1:])
        square = of_bias.square().sum()
        known = self.state.get(weight, {})
        if "common_along" not in known:
            return along, square
        return known["common_along"] * self._memory + along, known["common_square"] * self._memory + square


def _carried(weight: Tensor, mean: Tensor) -> Tensor:
    """W x̂: ΔW x̂ is the difference of two of these."""
    return weight.detach().flatten(1) @ mean.flatten()


def _pairs(layers: Iterable[nn.Module], held: set[int]) -> list[_Pair]:
    """Weights and biases that the port moves; what several layers share has no one mean."""
    modules = [module for layer in layers for module in layer.modules() if isinstance(module, _KINDS)]
    uses = Counter(id(parameter) for module in modules for parameter in module.parameters(recurse=False))
    return [
        _Pair(module.weight, module.bias)
        for module in modules
        if module.bias is not None
        and getattr(module, "groups", 1) == 1
        and all(id(p) in held and uses[id(p)] == 1 for p in (module.weight, module.bias))
    ]

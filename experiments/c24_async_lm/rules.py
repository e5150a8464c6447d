"""Optimizers of a stage's parameters, by rate; and the rule with other powers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer
from typing_extensions import override

from worldsheet.pipeline import Predicted, Weights
from worldsheet.ports import BiasCentered, Joined, RateBounded

Make = Callable[[Iterable[Parameter], float], Optimizer]


def adamw(parameters: Iterable[Parameter], lr: float) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)


def nadam(parameters: Iterable[Parameter], lr: float) -> Optimizer:
    """Of Ajanthan et al., Nesterov method for asynchronous pipeline parallel optimization, ICML 2025."""
    return torch.optim.NAdam(parameters, lr=lr, betas=(0.99, 0.999), weight_decay=0.01, decoupled_weight_decay=True)


def muon(parameters: Iterable[Parameter], lr: float, *, matrices: frozenset[int]) -> Optimizer:
    """Muon for the matrices of blocks, at Adam's root mean square; AdamW for embeddings, the head and vectors."""
    given = list(parameters)
    of_matrices = partial(torch.optim.Muon, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    of_others = partial(torch.optim.AdamW, lr=lr, weight_decay=0.01)
    return Joined(
        (of_matrices, [p for p in given if id(p) in matrices]), (of_others, [p for p in given if id(p) not in matrices])
    )


def matrices_of(net: nn.Sequential) -> frozenset[int]:
    """Weights of the linear layers between the embedding and the head."""
    linears = [module for layer in list(net)[1:-1] for module in layer.modules() if isinstance(module, nn.Linear)]
    return frozenset(id(linear.weight) for linear in linears)


@dataclass(frozen=True)
class Powers(Weights):
    """`DelayBounded` with other powers of 1 + d."""

    muon: float
    others: float
    foresight: Weights = field(default_factory=Predicted)

    @property
    @override
    def keeps(self) -> bool:
        return True

    @override
    def seen(self, now: Sequence[Tensor], before: Sequence[Tensor], delay: float) -> list[Tensor] | None:
        return self.foresight.seen(now, before, delay)

    @override
    def port(self, port: Optimizer, layers: Sequence[nn.Module], delay: float) -> Optimizer:
        return BiasCentered(RateBounded(port, delay, self.others, self.muon), layers) if delay else port

"""What `python -m benchmarks pipeline` trains: networks, batches and the optimizer that all contenders share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn

from benchmarks.models import vgg9
from worldsheet.pipeline import Plan, balanced, measured_costs
from worldsheet.problem import Chain
from worldsheet_lab.networks import Blueprint, mlp
from worldsheet_lab.streams import drawing, seed_of
from worldsheet_lab.text.gpt import Shape, started, token_loss

MICRO_BATCHES = (1, 2, 4, 8)
"""Into how many pieces a batch is cut."""

GOAL_TORCH = 1.25
"""Times the samples per second of torch's best schedule."""

GOAL_ONE = 1.7
"""Times those of one process with one thread."""

OPTIMIZER = partial(torch.optim.Adam, lr=1e-4, fused=True)
"""Of every contender: one pass over the parameters, which torch's default on the CPU is not."""

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets."""


@final
@dataclass(frozen=True)
class Case:
    """A network and how it is trained.

    Attributes:
        name: how it is called.
        text: what it is.
        make: builds it; every child is a site.
        data: draws a batch of so many samples.
        loss: makes the loss.
        batch: samples per update.
        batches: per turn of a contender.
        tokens: of a sample; 1 where samples are not sequences.
    """

    name: str
    text: str
    make: Callable[[], nn.Sequential]
    data: Callable[[int], Batch]
    loss: Callable[[], nn.Module]
    batch: int
    batches: int
    tokens: int = 1


class Instance(NamedTuple):
    """A case with its weights and a batch."""

    chain: Chain
    x: Tensor
    target: Tensor

    def packets(self, many: int, batches: int) -> list[Batch]:
        """The batch again and again, cut into so many pieces."""
        return list(zip(self.x.chunk(many), self.target.chunk(many), strict=True)) * batches

    def plan(self, stages: int, costs: tuple[float, ...]) -> Plan:
        """Balanced cuts."""
        return balanced(costs, stages)

    def costs(self, many: int = 1, repeats: int = 6) -> tuple[float, ...]:
        """Seconds per layer, of one piece of the batch."""
        return measured_costs(self.chain, *self.packets(many, 1)[0], repeats=repeats)


def instance(case: Case, seed: int) -> Instance:
    """The weights and the batch that the seed decides."""
    with drawing(seed_of(seed, case.name), torch.device("cpu")):
        return Instance(Chain(case.make(), case.loss()), *case.data(case.batch))


def _tanh512() -> nn.Sequential:
    return nn.Sequential(*[nn.Sequential(nn.Linear(512, 512), nn.Tanh()) for _ in range(16)])


def _regression(batch: int) -> Batch:
    return torch.randn(batch, 512), torch.randn(batch, 512)


def images(shape: tuple[int, ...], batch: int) -> Batch:
    """Standard normal pixels and ten classes."""
    return torch.randn(batch, *shape), torch.randint(10, (batch,))


def _deep_mlp() -> nn.Sequential:
    return mlp(Blueprint((1, 28, 28), 10, 20, 256, "relu", 0.0))


_GPT = Shape(symbols=65, context=64, width=128, blocks=6)


def _gpt() -> nn.Sequential:
    return nn.Sequential(*(started(_GPT, index, 0) for index in range(_GPT.layers)))


def _tokens(batch: int) -> Batch:
    drawn = torch.randint(_GPT.symbols, (batch, _GPT.context + 1))
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


@final
class TokenLoss(nn.Module):
    """Mean cross-entropy of the next symbols."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """In nats."""
        return token_loss(logits, target)


_ALL = (
    Case("tanh-512", "16 x (512-512 tanh)", _tanh512, _regression, nn.MSELoss, 256, 12),
    Case(
        "mlp-fashion",
        "784-19x256-10 relu, Fashion-MNIST's sizes",
        _deep_mlp,
        partial(images, (1, 28, 28)),
        nn.CrossEntropyLoss,
        256,
        16,
    ),
    Case(
        "vgg9-cifar",
        "VGG-9, CIFAR-10's sizes",
        vgg9,
        partial(images, (3, 32, 32)),
        nn.CrossEntropyLoss,
        16,
        5,
    ),
    Case(
        "gpt-128",
        "GPT of 6 blocks, width 128, 64 tokens, 65 symbols",
        _gpt,
        _tokens,
        TokenLoss,
        16,
        6,
        tokens=_GPT.context,
    ),
)

CASES: Mapping[str, Case] = {case.name: case for case in _ALL}
"""By name."""

"""What `bench dynamics` measures: relaxations with a fixed number of ticks, beside backpropagation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import torch
from torch import nn

from benchmarks.methods import AUTOGRAD, Method, Rules
from benchmarks.models import Instance, tanh_mlp
from worldsheet.core.types import Field
from worldsheet.dynamics import AugmentedLagrangian, Dyadic, Dynamics, PredictiveCoding, Wave
from worldsheet.engine import Stop
from worldsheet.layers import HalfSquares
from worldsheet.nn import residual_mlp
from worldsheet.problem import Chain
from worldsheet.schedules import CreditFront, Leapfrog, Schedule, Synchronous
from worldsheet.solve import backward
from worldsheet_lab.streams import drawing, seed_of

_CLASSES = 10
_BATCH = 64
_INFERENCE_TICKS = 20
_PC_RATE = 0.1


class Goal(NamedTuple):
    """What a method is to reach: a ratio to backpropagation in the same round."""

    method: str
    ratio: float


@final
@dataclass(frozen=True)
class Study:
    """One network with the ways to its gradient.

    Attributes:
        name: how it is called in tables and files.
        make: builds the network.
        size: of one input.
        methods: backpropagation first, which the others are compared with.
        goal: what is aimed at; None for none.
        trains: whether a step of SGD belongs to what is timed, as it does in the rivals.
        widths: of the network, if rivals can be asked for it.
        ticks: T.
        repeats: rounds.
    """

    name: str
    make: Callable[[], nn.Sequential]
    size: int
    methods: tuple[Method, ...]
    goal: Goal | None
    trains: bool
    widths: tuple[int, ...]
    ticks: int
    repeats: int


def instance_of(study: Study, batch: int, seed: int, device: torch.device) -> Instance:
    """The network with half squared error, standard normal inputs and one-hot targets that the seed decides."""
    with drawing(seed_of(seed, study.name), torch.device("cpu")):
        module = study.make()
        x = torch.randn(batch, study.size)
        target = nn.functional.one_hot(torch.randint(_CLASSES, (batch,)), _CLASSES).to(x.dtype)
    return Instance(Chain(module.to(device), HalfSquares()), x.to(device), target.to(device))


def _relaxed(name: str, dynamics: Dynamics, schedule: Schedule, ticks: int) -> Method:
    gradient = partial(backward, dynamics=dynamics, schedule=schedule, stop=Stop(max_ticks=ticks))
    return Method(name, gradient, Rules(dynamics, schedule))


def _residual(width: int, depth: int, rate: float, ratio: float, repeats: int) -> Study:
    """The residual MLP at T = 2L, with the step η that its depth allows."""
    lagrangian, ticks = AugmentedLagrangian(rate), 2 * depth
    methods = [AUTOGRAD, _relaxed("pc-alm", lagrangian, CreditFront(), ticks)]
    if width == depth:  # the other dynamics once, for the cost of a tick
        methods += [
            _relaxed("pc-alm, every site", lagrangian, Leapfrog(Field.COSTATE), ticks),
            _relaxed("pc", PredictiveCoding(rate), CreditFront(Field.STATE), ticks),
            _relaxed("dyadic 0.9", Dyadic(0.9), Synchronous(), ticks),
            _relaxed("wave", Wave(0.3, 1.0), Leapfrog(), ticks),
        ]
    return Study(
        name=f"residual-w{width}-l{depth}",
        make=partial(residual_mlp, depth, width),
        size=784,
        methods=tuple(methods),
        goal=Goal("pc-alm", ratio),
        trains=False,
        widths=(),
        ticks=ticks,
        repeats=repeats,
    )


def _inference(name: str, size: int, width: int, depth: int) -> Study:
    """A tanh network under T = 20 steps of predictive coding, as the rivals are asked for it."""
    dynamics = PredictiveCoding(_PC_RATE)
    return Study(
        name=name,
        make=partial(tanh_mlp, size, width, depth),
        size=size,
        methods=(AUTOGRAD, _relaxed("pc", dynamics, CreditFront(Field.STATE), _INFERENCE_TICKS)),
        goal=None,
        trains=True,
        widths=(size, *[width] * (depth - 1), _CLASSES),
        ticks=_INFERENCE_TICKS,
        repeats=60,
    )


_STUDIES = (
    _residual(32, 32, 0.2343, 6.0, 40),
    _residual(128, 32, 0.2343, 19.0, 15),
    _residual(32, 128, 0.2477, 22.0, 10),
    _inference("pc-784", 784, 300, 4),
    _inference("pc-w128-l10", 128, 128, 10),
)

STUDIES: Mapping[str, tuple[Study, ...]] = {study.name: (study,) for study in _STUDIES}
"""What `--case` can name."""

BATCH = _BATCH
"""Inputs per gradient."""

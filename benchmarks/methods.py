"""The ways to a gradient that are measured against each other."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias, final

from torch import Tensor

from benchmarks.forgetful import Uncached
from worldsheet.diagnostics.autograd import autograd_backward
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.problem import Chain
from worldsheet.schedules import Schedule, Synchronous, Wavefront
from worldsheet.solve import backward

Gradient: TypeAlias = Callable[[Chain, Tensor, Any], Tensor]
"""Adds the gradients of one batch to `.grad` and returns the loss."""


class Rules(NamedTuple):
    """What a relaxation is made of."""

    dynamics: Dynamics
    schedule: Schedule


@final
@dataclass(frozen=True)
class Method:
    """One way to a gradient.

    Attributes:
        name: how it is called in tables and files.
        gradient: the call that is timed.
        rules: the relaxation behind it; None for autograd.
    """

    name: str
    gradient: Gradient
    rules: Rules | None


def _relaxing(name: str, rules: Rules) -> Method:
    return Method(name, partial(backward, dynamics=rules.dynamics, schedule=rules.schedule), rules)


AUTOGRAD = Method("autograd", autograd_backward, None)
# Called as users call it, with the defaults; they are these rules.
WAVEFRONT = Method("wavefront", backward, Rules(Dyadic(), Wavefront()))
SYNCHRONOUS = _relaxing("synchronous", Rules(Dyadic(), Synchronous()))
LITERAL = _relaxing("literal", Rules(Uncached(Dyadic()), Synchronous()))

"""Edge ports: how weights move under the efforts that their edges feel."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, isfinite
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.functional import Regulariser
from worldsheet.streaming.shapes import Edges

AddEffort: TypeAlias = Callable[[Edges, float, float], None]
"""Edges ← keep · edges + gain · effort, in their own memory, from edges, keep and gain."""


class EdgeMotion(NamedTuple):
    """What moves with the edges of a network, in its own memory.

    Attributes:
        weights: w.
        momentum: π_w.
        squares: the running mean of the squared effort; no entries where the port keeps none.
        averaged: how much of the past the momentum and the squares hold, from 0 to 1: (2,), float64, on the CPU.
    """

    weights: Edges
    momentum: Edges
    squares: Tensor
    averaged: Tensor


class EdgeStep(NamedTuple):
    """How far edges move in a step.

    Attributes:
        seconds: since they moved last.
        keep: decay of π_w, the same for all edges.
        gain: of π_w, the sign of time included; 1 if signs differ, each system's gain being in its effort then.
        gain_on_edges: the whole gain, in a shape that multiplies edges if signs differ.
        flow: −dt/m.
        staggered: whether weights move under the momentum that has moved.
    """

    seconds: float
    keep: float
    gain: float
    gain_on_edges: float | Tensor
    flow: float
    staggered: bool


class EdgePort(ABC):
    """The law of motion of a weight, from the efforts on its edge alone."""

    @abstractmethod
    def squares(self, weights: Edges) -> Tensor:
        """What is kept beside the momentum, of a network that has felt nothing."""

    @abstractmethod
    def move(self, edges: EdgeMotion, add_effort: AddEffort, regulariser: Regulariser, step: EdgeStep) -> EdgeMotion:
        """Momenta and weights after a step, under an effort that is constant meanwhile."""

    @property
    @abstractmethod
    def derived(self) -> bool:
        """Whether weights move by Hamilton's equations, with any integrator, sign of time and energies of their own."""


@final
@dataclass(frozen=True)
class Inertia(EdgePort):
    """The last line of (6): π̇_w = −θ π_w + effort, ẇ = −π_w/m, with the mass and the dissipation of the functional."""

    def squares(self, weights: Edges) -> Tensor:
        """None."""
        return weights.new_empty(0)

    def move(self, edges: EdgeMotion, add_effort: AddEffort, regulariser: Regulariser, step: EdgeStep) -> EdgeMotion:
        """By (6b)."""
        weights, momentum = edges.weights, edges.momentum
        moved = weights if step.staggered else weights.add(momentum, alpha=step.flow)
        add_effort(momentum, step.keep, step.gain)
        regulariser.pull_weights(momentum, weights, step.gain_on_edges)
        return edges._replace(weights=weights.add_(momentum, alpha=step.flow) if step.staggered else moved)

    @property
    def derived(self) -> bool:
        """By (6)."""
        return True


@final
@dataclass(frozen=True)
class RmsScaled(EdgePort):
    """ẇ = −rate · p̂/(√v̂ + ε): the momentum of an edge over the root mean square of its own efforts, as in Adam.

    p and v are running means of the effort and of its square, p̂ and v̂ what they are of what has been heard so far. A
    weight moves by no more than about `rate` a second, however small or rare its efforts are. Equal to Adam with the
    learning rate rate · dt, β₁ = e^{−dt/mean} and β₂ = e^{−dt/square}. The mass and the dissipation of weights do not
    matter: this is an inertia that each edge fits to what it feels, and not derived from a functional.

    Args:
        rate: in 1/seconds.
        mean: seconds over which efforts are averaged.
        square: seconds over which their squares are averaged.
        epsilon: added to the root, in units of effort.

    Raises:
        InputError: a number that is not positive.
    """

    rate: float
    mean: float = 10.0
    square: float = 1000.0
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse what does not move, or divides by nothing."""
        for name in ("rate", "mean", "square", "epsilon"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise InputError(
                    f"RmsScaled: {name} must be positive and finite, got {value}",
                    "a number above 0",
                    "try RmsScaled(rate=0.001)",
                )

    def squares(self, weights: Edges) -> Tensor:
        """Zeros."""
        return torch.zeros_like(weights)

    @property
    def derived(self) -> bool:
        """It is added."""
        return False

    def move(self, edges: EdgeMotion, add_effort: AddEffort, regulariser: Regulariser, step: EdgeStep) -> EdgeMotion:
        """One step of Adam."""
        effort = torch.zeros_like(edges.weights)
        add_effort(effort, 0.0, 1.0)
        regulariser.pull_weights(effort, edges.weights, 1.0)
        first, second = exp(-step.seconds / self.mean), exp(-step.seconds / self.square)
        kept = torch.tensor([first, second], dtype=torch.float64)
        averaged = kept * edges.averaged + (1 - kept)
        part, of_squares = averaged.tolist()
        edges.momentum.lerp_(effort, 1 - first)
        edges.squares.mul_(second).addcmul_(effort, effort, value=1 - second)
        root = effort.copy_(edges.squares).div_(of_squares).sqrt_().add_(self.epsilon)
        edges.weights.addcdiv_(edges.momentum, root, value=-self.rate * step.seconds / part)
        return edges._replace(averaged=averaged)

"""What the neurons are made of, and which integral over time they make stationary."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.activation import Activation, Tanh
from worldsheet.streaming.potential import Potential, Squared
from worldsheet.streaming.shapes import Edges, Neurons, PerStream


class Regulariser(ABC):
    """A cost R(x, w) of its own, local to every neuron and edge."""

    @abstractmethod
    def pull_states(self, force: Neurons, state: Neurons) -> Neurons:
        """Force + ∂R/∂x, in the memory of the force."""

    @abstractmethod
    def pull_weights(self, force: Edges, weights: Edges, gain: float | Tensor) -> Edges:
        """Force + gain ∂R/∂w, in the memory of the force."""

    @abstractmethod
    def of_states(self, state: Neurons) -> PerStream:
        """The part of R that the states cost, per stream."""

    @abstractmethod
    def of_weights(self, squares: Tensor) -> Tensor:
        """The part of R that the weights cost, from Σ w² per system."""


@final
@dataclass(frozen=True)
class Quadratic(Regulariser):
    """r_w/2 Σ w² + r/2 Σ x².

    Args:
        weights: r_w; weights decay at the rate r_w/(m θ).
        states: r.

    Raises:
        InputError: a negative coefficient.
    """

    weights: float = 0.0
    states: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a reward for growth."""
        if not (self.weights >= 0 and self.states >= 0):
            raise InputError(
                f"Quadratic: weights and states must not be negative, got weights={self.weights}, states={self.states}",
                "coefficients of 0 or more",
                "leave them out",
            )

    def pull_states(self, force: Neurons, state: Neurons) -> Neurons:
        """Force + r x."""
        return force.add_(state, alpha=self.states) if self.states else force

    def pull_weights(self, force: Edges, weights: Edges, gain: float | Tensor) -> Edges:
        """Force + gain r_w w."""
        if not self.weights:
            return force
        if isinstance(gain, Tensor):
            return force.addcmul_(gain, weights, value=self.weights)
        return force.add_(weights, alpha=self.weights * gain)

    def of_states(self, state: Neurons) -> PerStream:
        """r/2 Σ x²."""
        return self.states / 2 * state.square().sum(1)

    def of_weights(self, squares: Tensor) -> Tensor:
        """r_w/2 Σ w²."""
        return self.weights / 2 * squares


@final
@dataclass(frozen=True)
class SpeedClasses:
    """Slow neurons that remember beside fast ones that answer: `count` speeds in equal ratios from slow to fast.

    Neurons that are neither inputs nor outputs take them in turns, in the order of their numbers; outputs are fast.

    Args:
        slow: the lowest speed, in 1/seconds.
        fast: the highest.
        count: how many, at least 2.

    Raises:
        InputError: speeds that are not positive or not ascending, or fewer than two.
    """

    slow: float
    fast: float
    count: int = 4

    def __post_init__(self) -> None:
        """Refuse what is no range."""
        if not (0 < self.slow < self.fast < inf and self.count > 1):
            raise InputError(
                f"SpeedClasses: slow must be positive and below fast, and count at least 2, got slow={self.slow}, "
                f"fast={self.fast}, count={self.count}",
                "two positive speeds in 1/seconds, and how many to spread between them",
                "try SpeedClasses(0.05, 3.0)",
            )

    def of(self, neurons: int, inputs: Sequence[int], outputs: Sequence[int]) -> Tensor:
        """One speed per neuron, in float64."""
        ratio = (self.fast / self.slow) ** (1 / (self.count - 1))
        found = torch.full((neurons,), self.fast, dtype=torch.float64)
        between = torch.ones(neurons, dtype=torch.bool)
        between[[*inputs, *outputs]] = False
        classes = torch.arange(int(between.sum())) % self.count
        speeds = [*(self.slow * ratio**k for k in range(self.count - 1)), self.fast]
        found[between] = torch.tensor(speeds, dtype=torch.float64)[classes]
        return found


@final
@dataclass(frozen=True)
class NeuronModel:
    """What the neurons are made of: dx_i/dt = c_i (σ(a_i) − x_i).

    Args:
        speed: c, in 1/seconds: one number, one per neuron, or a few that are spread over them.
        activation: σ.
        bias: whether every neuron also listens to a source that is always 1, over an edge with a weight like any other.

    Raises:
        InputError: a speed that is not positive.
    """

    speed: float | Tensor | SpeedClasses = 50.0
    activation: Activation = field(default_factory=Tanh)
    bias: bool = True

    def __post_init__(self) -> None:
        """Refuse what does not move."""
        if isinstance(self.speed, SpeedClasses):
            return
        slowest = float(self.speed.min()) if isinstance(self.speed, Tensor) else self.speed
        if not 0 < slowest < float("inf"):
            raise InputError(
                f"NeuronModel: speed must be positive and finite, got {slowest}",
                "one speed in 1/seconds, or one for each neuron",
                "try speed=50.0",
            )


@final
@dataclass(frozen=True)
class Functional:
    """∫ [ m/2 |ẇ|² + V(output, target) + R(x, w) ] e^{θt} dt.

    Args:
        potential: V.
        regulariser: R.
        mass: m, the inertia of a weight; infinite weights do not move.
        dissipation: θ in 1/seconds, the rate at which momentum is lost; 0 conserves it.

    Raises:
        InputError: a mass that is not positive or a negative dissipation.
    """

    potential: Potential = field(default_factory=Squared)
    regulariser: Regulariser = field(default_factory=Quadratic)
    mass: float = 0.005
    dissipation: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what has no motion."""
        if isnan(self.mass) or self.mass <= 0:
            raise InputError(
                f"Functional: mass must be positive, got {self.mass}",
                "a mass above 0, or math.inf for weights at rest",
                "try mass=0.01",
            )
        if not 0 <= self.dissipation < float("inf"):
            raise InputError(
                f"Functional: dissipation must be finite and not negative, got {self.dissipation}",
                "0 or more, in 1/seconds",
                "try dissipation=20.0",
            )

"""Integrators: one step of time for fields that decay by themselves and are driven by their neighbours."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError


class StepFactors(NamedTuple):
    """How y moves in a step of ẏ = −k y + d: y ← keep · y + gain · d."""

    keep: Tensor
    gain: Tensor


class NeuronIntegrator(ABC):
    """A table of two coefficients and an order.

    Every field of (6) obeys ẏ = −k y + d, where the rate k belongs to the neuron and the drive d comes from its
    neighbours. A step takes d as constant.

    Attributes:
        every: edges move at every so manieth step only, that much further, under what their ends hold at that instant.
    """

    every: int

    @abstractmethod
    def factors(self, rate: Tensor, dt: float) -> StepFactors:
        """Keep and gain for rates k of either sign; a rate of 0 only integrates."""

    @property
    @abstractmethod
    def staggered(self) -> bool:
        """Whether x, π, π_w and w move one after the other, each reading those that have moved."""

    @abstractmethod
    def check(self, rate: float, dt: float) -> None:
        """Refuse a step that makes a decay at `rate` explode.

        Raises:
            InputError: the step, its bound, and the way out.
        """


@final
@dataclass(frozen=True)
class ForwardEuler(NeuronIntegrator):
    """y + dt (d − k y), all fields from the same instant. First order; stable for dt · k < 2.

    Args:
        every: steps of the neurons for one of the edges.

    Raises:
        InputError: `every` below 1.
    """

    every: int = 1

    def __post_init__(self) -> None:
        """Refuse edges that never move."""
        _refuse_never(self.every)

    def factors(self, rate: Tensor, dt: float) -> StepFactors:
        """1 − k dt and dt."""
        return StepFactors(1 - rate * dt, torch.full_like(rate, dt))

    @property
    def staggered(self) -> bool:
        """All at once."""
        return False

    def check(self, rate: float, dt: float) -> None:
        """Dt · k < 2."""
        if dt * rate >= 2:
            raise InputError(
                f"dt must be below {2 / rate:.3g} for ForwardEuler at these speeds and dissipation, got {dt:g}",
                f"a step below 2/k, where k = {rate:g} is the larger of c + θ and every · θ: beyond it Euler's steps "
                "overshoot and grow",
                "take shorter steps or lower speeds, or integrator=Exponential(), which has no such bound",
            )


@final
@dataclass(frozen=True)
class Exponential(NeuronIntegrator):
    """e^{−k dt} y + (1 − e^{−k dt})/k d, the decay being exact, in the order x, π, π_w, w.

    First order in the couplings, stable for any dt · k. As c · dt → ∞ at θ = 0 a step is a tick of `Dyadic(rate=1)`:
    x ← σ(a), and λ = c π ← the pulled-back λ.

    Args:
        every: steps of the neurons for one of the edges, which are most of the work and move slowly. First order in
            every · dt; what is told at the steps between reaches the edges through the costates only.

    Raises:
        InputError: `every` below 1.
    """

    every: int = 1

    def __post_init__(self) -> None:
        """Refuse edges that never move."""
        _refuse_never(self.every)

    def factors(self, rate: Tensor, dt: float) -> StepFactors:
        """e^{−k dt} and its integral."""
        keep = torch.exp(-rate * dt)
        resting = rate == 0
        gain = -torch.expm1(-rate * dt) / torch.where(resting, torch.ones_like(rate), rate)
        return StepFactors(keep, torch.where(resting, torch.full_like(rate, dt), gain))

    @property
    def staggered(self) -> bool:
        """One after the other."""
        return True

    def check(self, rate: float, dt: float) -> None:
        """Every decay decays."""


def _refuse_never(every: int) -> None:
    if every < 1:
        raise InputError(
            f"every must be at least 1, got {every}", "a number of steps", "use every=1 to move the edges at every step"
        )

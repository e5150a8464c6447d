"""The ways to a gradient that `worldsheet compare` knows by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from worldsheet.dynamics import AugmentedLagrangian, Dyadic, Dynamics, PredictiveCoding, Wave
from worldsheet.engine import Stop
from worldsheet.problem import Chain
from worldsheet.solve import Solution, backward, calibrate, relax
from worldsheet.solve.oracle import autograd_backward

BACKPROP = "backprop"
_UNTIL_SETTLED = Stop()


@final
@dataclass(frozen=True)
class Rival:
    """A dynamics and how long it may run.

    Attributes:
        dynamics: how a site moves; None for backprop.
        stop: its budget.
    """

    dynamics: Dynamics | None
    stop: Stop = _UNTIL_SETTLED

    def calibrated(self, chain: Chain, x: Tensor, target: Tensor) -> "Rival":
        """The same with its automatic constants measured on these layers."""
        if self.dynamics is None:
            return self
        return Rival(calibrate(chain, x, target, self.dynamics), self.stop)

    def gradient(self, chain: Chain, x: Tensor, target: Tensor) -> Tensor:
        """Add the gradients of one batch to `.grad` and return the loss."""
        if self.dynamics is None:
            return autograd_backward(chain, x, target)
        return backward(chain, x, target, self.dynamics, stop=self.stop)

    def solution(self, chain: Chain, x: Tensor, target: Tensor) -> Solution | None:
        """The same relaxation with its fields and counts; None for backprop."""
        return None if self.dynamics is None else relax(chain, x, target, self.dynamics, stop=self.stop)

    @property
    def description(self) -> str:
        """What it is made of."""
        return "loss.backward()" if self.dynamics is None else f"{self.dynamics}, {self.stop}"


RIVALS: Mapping[str, Callable[[int], Rival]] = {
    BACKPROP: lambda depth: Rival(None),
    "dyadic": lambda depth: Rival(Dyadic()),
    "wave": lambda depth: Rival(Wave(), Stop(max_ticks=10 * depth)),
    "pc": lambda depth: Rival(PredictiveCoding(), Stop(max_ticks=2 * depth)),
    "pc-alm": lambda depth: Rival(AugmentedLagrangian(), Stop(max_ticks=2 * depth)),
}
"""By name: given the number of sites, a dynamics with its default constants and budget."""

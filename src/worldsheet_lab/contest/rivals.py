"""The ways to a gradient that `worldsheet compare` knows by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.record import Record
from worldsheet.diagnostics.autograd import autograd_backward
from worldsheet.dynamics import AugmentedLagrangian, Dyadic, Dynamics, ErrorBasedCoding, PredictiveCoding, Wave
from worldsheet.engine import Stop
from worldsheet.problem import Chain
from worldsheet.schedules import Schedule
from worldsheet.solve import Calibration, Centred, Solution, backward, calibrate, centred, relax
from worldsheet_lab.contenders import GradientFunction

BACKPROP = "backprop"
_UNTIL_SETTLED = Stop()


@final
@dataclass(frozen=True)
class LearningRule:
    """A dynamics, when its sites move, and how long it may run.

    Attributes:
        dynamics: how a site moves; None for backprop.
        stop: its budget.
        twice: whether it is relaxed with a nudge of either sign and the mean gradient is taken, which is equilibrium
            propagation on the prediction energy.
        schedule: when; None for the dynamics' own.
        follows: whether its step can be followed through training.
    """

    dynamics: Dynamics | None
    stop: Stop = _UNTIL_SETTLED
    twice: bool = False
    schedule: Schedule | None = None
    follows: bool = False

    def in_training(self) -> GradientFunction:
        """The way to the gradients of one batch after the other, by a step that follows the parameters."""
        if self.dynamics is None or not self.follows:
            return self.gradient
        calibration = Calibration(self.dynamics)

        def gradient(chain: Chain, x: Tensor, target: Tensor) -> Tensor:
            if not self.twice:
                return backward(chain, x, target, calibration, schedule=self.schedule, stop=self.stop)
            both = centred(chain, x, target, calibration, schedule=self.schedule, stop=self.stop)
            both.accumulate()
            return both.loss

        return gradient

    def calibrated(self, chain: Chain, x: Tensor, target: Tensor) -> "LearningRule":
        """The same with its automatic constants measured on these layers."""
        if self.dynamics is None:
            return self
        return replace(self, dynamics=calibrate(chain, x, target, self.dynamics))

    def gradient(self, chain: Chain, x: Tensor, target: Tensor) -> Tensor:
        """Add the gradients of one batch to `.grad` and return the loss."""
        if self.dynamics is None:
            return autograd_backward(chain, x, target)
        if self.twice and (solution := self.solution(chain, x, target)):
            solution.accumulate()
            return solution.loss
        return backward(chain, x, target, self.dynamics, schedule=self.schedule, stop=self.stop)

    def solution(self, chain: Chain, x: Tensor, target: Tensor) -> Solution | None:
        """The same relaxation with its fields and counts; None for backprop."""
        if self.twice and isinstance(self.dynamics, PredictiveCoding):
            return _mean(centred(chain, x, target, self.dynamics, schedule=self.schedule, stop=self.stop))
        return None if self.dynamics is None else self.phase(chain, x, target)

    def phase(self, chain: Chain, x: Tensor, target: Tensor, record: Record | None = None) -> Solution:
        """One relaxation, of two phases the one that the target pulls, which may be recorded.

        Raises:
            InputError: backprop, which relaxes nothing.
        """
        if self.dynamics is None:
            raise InputError(f"{BACKPROP} has no relaxation to record", "a rule with a dynamics", "leave it out")
        return relax(chain, x, target, self.dynamics, schedule=self.schedule, stop=self.stop, record=record)

    @property
    def description(self) -> str:
        """What it is made of."""
        if self.dynamics is None:
            return "loss.backward()"
        return f"{self.dynamics}, {self.stop}{', nudged both ways' * self.twice}"


def _mean(phases: Centred) -> Solution:
    """Both phases as one solution: the mean of gradients and cost, the sum of work."""
    pulled, pushed = phases.pulled, phases.pushed
    pairs = zip(pulled.pairs, pushed.pairs, strict=True)
    return replace(
        pulled,
        loss=phases.loss,
        evaluations=pulled.evaluations + pushed.evaluations,
        pulls=pulled.pulls + pushed.pulls,
        outcome=replace(pulled.outcome, ticks=pulled.ticks + pushed.ticks),
        pairs=tuple((leaf, (one + other) / 2) for (leaf, one), (_, other) in pairs),
    )


LEARNING_RULES: Mapping[str, Callable[[int], LearningRule]] = {
    BACKPROP: lambda depth: LearningRule(None),
    "dyadic": lambda depth: LearningRule(Dyadic()),
    "wave": lambda depth: LearningRule(Wave(), Stop(max_ticks=4 * depth)),
    "pc": lambda depth: LearningRule(PredictiveCoding(), Stop(max_ticks=2 * depth), follows=True),
    "epc": lambda depth: LearningRule(ErrorBasedCoding(), Stop(max_ticks=5), follows=True),
    "ep": lambda depth: LearningRule(PredictiveCoding(nudge=0.5), Stop(max_ticks=2 * depth), twice=True, follows=True),
    "pc-alm": lambda depth: LearningRule(AugmentedLagrangian(), Stop(max_ticks=2 * depth), follows=True),
}
"""By name: given the number of sites, a dynamics with its default constants and budget."""

"""Two nudges of opposite sign, whose errors of first order cancel."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.outcome import Outcome
from worldsheet.core.words import number_of
from worldsheet.dynamics import Hopfield, PredictiveCoding
from worldsheet.engine import Stop
from worldsheet.problem import Chain
from worldsheet.schedules import Schedule
from worldsheet.solve.backward import LARGE, NotConvergedWarning
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.calibration import Calibration
from worldsheet.solve.checks import check_chain, check_options
from worldsheet.solve.gradients import accumulate
from worldsheet.solve.relax import relax
from worldsheet.solve.solution import Solution


@final
@dataclass(frozen=True)
class Centred:
    """A relaxation that the target pulls and one that it pushes.

    Attributes:
        pulled: at nudge β.
        pushed: at nudge −β.
    """

    pulled: Solution
    pushed: Solution

    def __repr__(self) -> str:
        return f"Centred, loss {number_of(self.loss)}\n  pulled: {self.pulled.outcome}\n  pushed: {self.pushed.outcome}"

    @property
    def loss(self) -> Tensor:
        """The mean cost of both, which is that of the forward pass up to order β²."""
        return (self.pulled.loss + self.pushed.loss) / 2

    def gradients(self) -> dict[str, Tensor]:
        """The mean of both gradients, backprop's up to order β².

        Raises:
            RelaxationError: one of the two diverged.
        """
        one, other = (replace(phase, half=False).gradients() for phase in (self.pulled, self.pushed))
        return {name: (gradient + other[name]) / 2 for name, gradient in one.items()}

    def accumulate(self) -> None:
        """Add the gradients to the parameters' `.grad`.

        Raises:
            RelaxationError: one of the two diverged; `.grad` is untouched.
        """
        found, named = self.gradients(), dict(self.pulled.chain.named_parameters())
        accumulate([(named[name], gradient) for name, gradient in found.items()])


def centred(
    chain: Chain,
    x: Any,
    target: Any,
    dynamics: PredictiveCoding | Hopfield | Calibration,
    *,
    schedule: Schedule | None = None,
    stop: Stop = Stop(),
) -> Centred:
    """Relax with a nudge of β and with one of −β: the central difference of an energy in the nudge.

    Twice the cost of `relax`. Layers that draw random numbers draw anew, and moving statistics move twice.

    Args:
        chain: the layers and the loss.
        x: input x_0.
        target: what the loss compares the output with.
        dynamics: `PredictiveCoding` with a nudge, or `Hopfield`; its sign does not matter. Or a `Calibration` of the
            former, whose step follows the parameters from call to call, and which is told both outcomes.
        schedule: see `relax`.
        stop: budget and tolerance of each of the two.

    Raises:
        InputError: no nudge, and what `relax` refuses.
        LayerError: a layer or loss that fails on what it receives.

    Warns:
        NotConvergedWarning: a `Hopfield` network was far from rest, so that the difference of its two states is no
            gradient.
    """
    check_chain(chain, "centred")
    followed = dynamics if isinstance(dynamics, Calibration) else None
    nudged = dynamics if followed is None else followed.dynamics
    check_options(nudged, schedule, stop)
    if not isinstance(nudged, PredictiveCoding | Hopfield) or nudged.nudge is None:
        raise InputError(
            f"centred needs a dynamics with a nudge, got {dynamics}",
            "a dynamics with a nudge, which has an opposite: PredictiveCoding(nudge=...) or Hopfield()",
            "use PredictiveCoding(nudge=0.1)",
        )
    nudge = abs(nudged.nudge)
    nudged = calibrate(chain, x, target, dynamics)
    assert isinstance(nudged, PredictiveCoding | Hopfield)
    pulled, pushed = (
        relax(chain, x, target, replace(nudged, nudge=sign * nudge), schedule=schedule, stop=stop) for sign in (1, -1)
    )
    if nudged.character.contrasted:
        _warn_of_unrest(pulled.outcome, pushed.outcome)
    if followed is not None:
        followed.tell(pulled.outcome)
        followed.tell(pushed.outcome)
    return Centred(pulled, pushed)


def _warn_of_unrest(*outcomes: Outcome) -> None:
    """Say that gradients may point anywhere where one of two states is far from the rest that they are to differ by."""
    for outcome in outcomes:
        if outcome.residual is not None and not outcome.residual <= LARGE:
            told = f"gradients may point anywhere, since the network is not at rest: {outcome}"
            warnings.warn(told, NotConvergedWarning, stacklevel=3)
            return

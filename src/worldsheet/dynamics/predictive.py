"""Predictive coding: descent of an energy of prediction errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil, inf, isfinite
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, Field, State
from worldsheet.dynamics.base import Character, zeros_like
from worldsheet.dynamics.coefficients import Coefficients, Mix
from worldsheet.dynamics.descent import CURE, LONGEST_GROWTH, Descent, chosen, curvature, slowest
from worldsheet.dynamics.per_prediction import refuse_no_positions
from worldsheet.dynamics.per_site import (
    PerSite,
    kept,
    moved,
    numbers,
    own,
    refuse_not_positive,
    refuse_other_depth,
    refuse_unequal,
)
from worldsheet.dynamics.spectrum import Operator
from worldsheet.problem import Linearised, View


@final
class Prediction(Enum):
    """The states at which layers predict and are pulled back through."""

    MOVING = "the states as they are now"
    FIXED = "the states of the forward pass"


@final
@dataclass(frozen=True)
class PredictiveCoding(Descent):
    """Descent of the prediction energy C + ρ/2 Σ‖r_l‖² in the states; the costates follow as λ ≡ ρ r.

        x_l ← x_l + η (ρ r_l − J_{l+1}ᵀ ρ r_{l+1})                                                  (9)

    A heat equation over depth: credit diffuses, and reaches √(ρηT) layers in T ticks. Rest takes some L²/(ρη) ticks, so
    that by default a relaxation ends after 2L ticks or 20, whichever is more, and `backward` warns where its residual
    is large then; `Stop(tol=…)` waits for rest, `Stop(max_ticks=…)` says another budget. Fewer sites need fewer ticks:
    convolution, activation and pooling together in one `nn.Sequential` are one site.

    *Output.* Without a nudge it is open: the last layer's prediction enters the cost itself. With a nudge β the output
    is a state like the others, with an error of its own, and the cost pulls at it with strength β: descent of
    βC + ρ/2 Σ‖r_l‖² with λ ≡ ρ r/β (9a). At rest λ differs from backprop's by a part of order β, of order β² in the
    mean over ±β, which is `centred`. A nudge below zero pushes the output away from the target.

    *Fixed prediction.* Layers stay evaluated at the forward pass, and only the errors move (9b):

        λ_l ← λ_l + η (J_{l+1}ᵀ λ_{l+1} − λ_l),   λ_L = ∇C

    with x_l − λ_l/ρ the activity of the value node. It is advection, not diffusion: at η = 1 backprop's gradient after
    L ticks. Errors are kept as such instead of as a difference of activities, so none of their digits are lost.

    Rates are per sample: where the loss is a mean over the batch, the energy is too, and η is multiplied by its size.
    Cost per tick and site: one evaluation and one pull-back, with fixed prediction the pull-back only. Stable for
    η < 2/λ_max of ρ(1 − N)ᵀ(1 − N), N the shift through the layers; about ½. Fixed prediction: 0 < η < 2.

    Args:
        rate: η, one number or one per site; None for 1/λ_max, estimated by power iteration at the forward pass, or 1
            with fixed prediction.
        precision: ρ, the weight of a prediction error, one number or one per site, for Σ ρ_l/2 ‖r_l‖².
        averaged: whether the loss is a mean over the first dimension (else a sum).
        nudge: β, None for an open output.
        prediction: at which states layers predict.
        positions: over how many predictions of a sample the loss averages too, the tokens of a sequence for example, so
            that a mean over batch and time is as strong per token as a mean over a batch is per sample; None to count
            the targets of a cross-entropy of shape (batch, ...), and 1 for any other loss.

    Raises:
        InputError: a rate or precision that is not positive, a nudge of zero; a nudge, a rate from 2 on or one per site
            with fixed prediction.
    """

    rate: PerSite | None = None
    precision: PerSite = 1.0
    averaged: bool = True
    nudge: float | None = None
    prediction: Prediction = Prediction.MOVING
    positions: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot descend."""
        object.__setattr__(self, "rate", None if self.rate is None else kept(self.rate))
        object.__setattr__(self, "precision", kept(self.precision))
        refuse_not_positive("PredictiveCoding", rate=self.rate, precision=self.precision)
        refuse_unequal("PredictiveCoding", rate=self.rate, precision=self.precision)
        refuse_no_positions("PredictiveCoding", self.positions, self.averaged)
        if self.nudge is not None and not (isfinite(self.nudge) and self.nudge != 0):
            raise InputError(
                f"PredictiveCoding: nudge must be finite and not zero, got {self.nudge}",
                "a positive or negative number",
                "leave nudge out",
            )
        if self._fixed and self.nudge is not None:
            raise InputError(
                f"PredictiveCoding: nudge has no effect with prediction={self.prediction}, got {self.nudge}",
                "a nudge where predictions move: at fixed ones errors are proportional to it, and it changes nothing",
                "leave nudge out",
            )
        if self._fixed and isinstance(self.rate, tuple):
            raise InputError(
                f"PredictiveCoding: rate must be one number with prediction={self.prediction}, got {len(self.rate)}",
                "one number strictly between 0 and 2",
                "use rate=1 for backprop's gradient in L ticks",
            )
        if self._fixed and self._rate >= 2:
            raise InputError(
                f"PredictiveCoding: rate must be below 2 with prediction={self.prediction}, got {self.rate}",
                "a rate strictly between 0 and 2",
                "use rate=1 for backprop's gradient in L ticks",
            )

    @property
    def character(self) -> Character:
        """States first; errors stay, only their balance is sought. Fixed prediction moves no states."""
        return Character(
            leads=None if self._fixed else Field.STATE,
            open_output=self.nudge is None,
            vanishing=(Field.COSTATE,),
            descends=True,
            growth=LONGEST_GROWTH if self._convex else inf,
            cure=CURE,
        )

    def start(self, outputs: Sequence[AnyState]) -> Fields:
        """The forward pass, free of errors."""
        return Fields(tuple(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """One step of (9); none with fixed prediction."""
        if self._fixed:
            return view.state
        if view.at_output and self.nudge is None:
            return view.prediction  # no variable
        step = own(chosen(self.rate), view) * self._strength * self._count(view.samples)
        return moved(view.state, view.credit - view.pulled, step)

    def costate(self, view: View) -> Costate:
        """ρ r_l; one step of (9b) with fixed prediction."""
        if self._fixed and not view.at_output:
            return view.pulled if self._rate == 1 else view.costate.lerp(view.pulled, self._rate)
        return view.credit

    def credit(self, view: View) -> Costate:
        """ρ r_l, ∇C at an open output."""
        if view.at_output and self.nudge is None:
            return view.pulled
        if self._fixed:
            return view.costate
        return own(self.precision, view) / (self._strength * self._count(view.samples)) * view.state_residual

    @property
    def automatic(self) -> bool:
        """Whether η is to be estimated."""
        return self.rate is None and not self._fixed

    def fit(self, depth: int) -> None:
        """Refuse rates or precisions of another number of sites."""
        refuse_other_depth("PredictiveCoding", depth, rate=self.rate, precision=self.precision)

    def coefficients(self, samples: int) -> Coefficients | None:
        """As sums: x += η (e − p), λ = e, e = ρ r; with fixed prediction λ += η (p − λ), e = λ. None per site."""
        if self._fixed:
            return Coefficients(Mix(), Mix(costate=-self._rate, pulled=self._rate), Mix(costate=1.0))
        if isinstance(self.rate, tuple) or isinstance(self.precision, tuple):
            return None
        count = self._strength * self._count(samples)
        step, credit = self._rate * count, Mix(residual=self.precision / count)
        return Coefficients(Mix(credit=step, pulled=-step), Mix(costate=-1.0, credit=1.0), credit)

    @property
    def settles_at_once(self) -> bool:
        """False: errors balance only in the limit."""
        return False

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by small steps, and by the small errors of a small nudge."""
        return min(0.02, 256 * precision / (self._rate * min(1.0, abs(self._strength))))

    def budget(self, depth: int) -> int:
        """Diffusion over the whole depth; advection with fixed prediction, L ticks at η = 1."""
        if self._fixed:
            return depth if self._rate == 1 else ceil(10 * (depth + 10) / min(self._rate, 2 - self._rate))
        return ceil(4 * depth * depth / (self._rate * min(numbers(self.precision)))) + 100

    def default_budget(self, depth: int) -> int:
        """2L ticks or 20, if that is more: what training can afford. L ticks with fixed prediction."""
        return self.budget(depth) if self._fixed else max(20, 2 * depth)

    def _curvature(self, linearised: Linearised) -> Operator:
        """Of the prediction energy in the states."""
        return curvature(linearised, self.precision, self._count(linearised.samples), self.nudge)

    @property
    def _convex(self) -> bool:
        """Whether what descends is convex but for the layers' curvature, so that its slope shrinks at each tick."""
        return not self._fixed and self._strength > 0

    @property
    def _fixed(self) -> bool:
        return self.prediction is Prediction.FIXED

    @property
    def _rate(self) -> float:
        return 1.0 if self.rate is None and self._fixed else slowest(self.rate)

    @property
    def _strength(self) -> float:
        return 1.0 if self.nudge is None else self.nudge

"""Predictive coding with multipliers: descent in the states and ascent in the costates of an augmented Lagrangian."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, sin
from operator import truediv
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, Field, State
from worldsheet.dynamics.base import Character, zeros_like
from worldsheet.dynamics.coefficients import Coefficients, Mix
from worldsheet.dynamics.descent import CURE, Descent, chosen, curvature
from worldsheet.dynamics.per_prediction import refuse_no_positions
from worldsheet.dynamics.per_site import (
    PerSite,
    at,
    kept,
    moved,
    own,
    paired,
    refuse_not_positive,
    refuse_other_depth,
    refuse_unequal,
)
from worldsheet.dynamics.spectrum import Operator
from worldsheet.problem import Linearised, View

_GROWTH = 1.3  # measured over three ticks: a wave of credit that spreads makes 1.17, and 1.3 in one of them


@final
@dataclass(frozen=True)
class AugmentedLagrangian(Descent):
    """Predictive coding with local multipliers, PC-ALM: descent in x and ascent in λ of 𝓛 + ρ/2 Σ‖r_l‖².

        e_l = λ_l + ρ r_l,     x_l ← x_l + η (e_l − J_{l+1}ᵀ e_{l+1}),     λ_l ← λ_l + α r_l                       (10)

    A damped wave over depth: credit travels ballistically, T√(αη) layers in T ticks. Costates move first in a tick, so
    that the last tick ends with the states and e is the credit before the next multiplier step. The output is open.
    In linear networks the fixed point is backprop's. A curved network has a rest only where ρ outweighs the curvature
    of 𝓛 there: a graph with a site for every addition needed ρ = 4 where fused residual layers came to rest at ρ = 1.
    On ReLU networks there is often none within reach: the method is good at a budget of 2L ticks, when credit has just
    crossed the network, which is its default; a relaxation that is to come to rest needs `Stop(max_ticks=…, tol=…)`.

    Cost per tick and site: one evaluation and one pull-back. Stable for η σ²(2ρ + α) < 4, σ the largest singular
    value of 1 − N, N the shift through the layers; at η = 1/(ρσ²), which is the estimate, for α < 2ρ. If its own
    multiplier is up to τ ticks old when a state reads it, no more than α < 2ρ sin(π/(2(2τ + 1))): a schedule that is
    later than that is refused.

    Args:
        rate: η, one number or one per site; None for 1/λ_max, estimated by power iteration at the forward pass, about
            ¼.
        dual_rate: α, one number or one per site.
        penalty: ρ, one number or one per site.
        averaged: whether the loss is a mean over the first dimension (else a sum).
        positions: over how many predictions of a sample the loss averages too, the tokens of a sequence for example, so
            that a mean over batch and time is as strong per token as a mean over a batch is per sample; None to count
            the targets of a cross-entropy of shape (batch, ...), and 1 for any other loss.

    Raises:
        InputError: a rate, dual rate or penalty that is not positive, a dual rate beyond its site's 2ρ.

    Reference:
        Seely & Gould, Augmented Lagrangian Predictive Coding, arXiv 2605.31022.
    """

    rate: PerSite | None = None
    dual_rate: PerSite = 1.0
    penalty: PerSite = 1.0
    averaged: bool = True
    positions: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot descend, and a multiplier step that overshoots."""
        object.__setattr__(self, "rate", None if self.rate is None else kept(self.rate))
        object.__setattr__(self, "dual_rate", kept(self.dual_rate))
        object.__setattr__(self, "penalty", kept(self.penalty))
        refuse_not_positive("AugmentedLagrangian", rate=self.rate, dual_rate=self.dual_rate, penalty=self.penalty)
        refuse_unequal("AugmentedLagrangian", rate=self.rate, dual_rate=self.dual_rate, penalty=self.penalty)
        refuse_no_positions("AugmentedLagrangian", self.positions, self.averaged)
        if self._gain >= 2:
            raise _overshoots(self.dual_rate, self.penalty)

    @property
    def character(self) -> Character:
        """Costates first, so that a tick ends with the states."""
        return Character(
            leads=Field.COSTATE,
            open_output=True,
            patience=_patience(self._gain),
            descends=True,
            growth=_GROWTH,
            cure=f"{CURE}; where it keeps swinging, raise the penalty",
        )

    def start(self, outputs: Sequence[AnyState]) -> Fields:
        """The forward pass, multipliers zero."""
        return Fields(tuple(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """Descent in x_l; the output is no variable and follows its prediction."""
        if view.at_output:
            return view.prediction
        step = own(chosen(self.rate), view) * self._count(view.samples)
        return moved(view.state, view.credit - view.pulled, step)

    def costate(self, view: View) -> Costate:
        """Ascent in λ_l; ∇C at the output."""
        return self._moved(view, self.dual_rate)

    def credit(self, view: View) -> Costate:
        """e_l, ∇C at the output."""
        return self._moved(view, self.penalty)

    def fit(self, depth: int) -> None:
        """Refuse constants of another number of sites."""
        refuse_other_depth("AugmentedLagrangian", depth, rate=self.rate, dual_rate=self.dual_rate, penalty=self.penalty)

    def coefficients(self, samples: int) -> Coefficients | None:
        """As sums: x += η (e − p), λ += α r, e = λ + ρ r; None for constants of each site."""
        rate = chosen(self.rate)
        if isinstance(rate, tuple) or isinstance(self.dual_rate, tuple) or isinstance(self.penalty, tuple):
            return None
        count = self._count(samples)
        step = rate * count
        credit = Mix(residual=self.penalty / count, costate=1.0)
        return Coefficients(Mix(credit=step, pulled=-step), Mix(residual=self.dual_rate / count), credit)

    @property
    def settles_at_once(self) -> bool:
        """False: fields ring down to the solution."""
        return False

    def tolerance(self, precision: float) -> None:
        """None: it is good at a budget, not at rest."""

    def budget(self, depth: int) -> int:
        """2L ticks, in which credit crosses the network."""
        return 2 * depth

    def _curvature(self, linearised: Linearised) -> Operator:
        """Of the augmented Lagrangian in the states."""
        return curvature(linearised, self.penalty, self._count(linearised.samples))

    def _moved(self, view: View, step: PerSite) -> Costate:
        if view.at_output:
            return view.pulled
        return moved(view.costate, view.state_residual, own(step, view) / self._count(view.samples))

    @property
    def _gain(self) -> float:
        """The largest α/ρ of any site."""
        return max(paired(truediv, self.dual_rate, self.penalty))


def _overshoots(dual_rate: PerSite, penalty: PerSite) -> InputError:
    """The error of a multiplier step that is too long at some site."""
    gains = paired(truediv, dual_rate, penalty)
    worst = gains.index(max(gains)) + 1
    one, other = at(dual_rate, worst), at(penalty, worst)
    return InputError(
        f"AugmentedLagrangian: dual_rate must be below twice the penalty, got dual_rate={one} and penalty={other}",
        f"a dual rate below 2ρ = {2 * other:.4g}",
        f"use dual_rate={other:.3g}",
    )


def _patience(gain: float) -> int:
    """The longest delay τ of a site's own multiplier with α/ρ < 2 sin(π/(2(2τ + 1))) (18), at least 0."""
    delay = 0
    while gain < 2 * sin(pi / (2 * (2 * delay + 3))):
        delay += 1
    return delay

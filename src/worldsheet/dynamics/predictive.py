"""Predictive coding, with and without multipliers: descent of an energy of prediction errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, pi, sin
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.field import Field
from worldsheet.core.shapes import Costate, Elsewhere, State
from worldsheet.dynamics.base import Character, Dynamics, zeros_like
from worldsheet.problem import Fields, Linearised, View


@final
@dataclass(frozen=True)
class PredictiveCoding(Dynamics):
    """Descent of the prediction energy C + ρ/2 Σ‖r_l‖² in the states; the costates follow as λ ≡ ρ r.

        x_l ← x_l + η (ρ r_l − J_{l+1}ᵀ ρ r_{l+1})                                                  (9)

    A heat equation over depth: credit diffuses, and reaches √(ρηT) layers in T ticks. The output is open: the last
    layer's prediction enters the cost itself. Rates are per sample: where the loss is a mean over the batch, the energy
    is too, and η is multiplied by the batch size.

    Cost per tick and site: one evaluation and one pull-back. Stable for η < 2/λ_max of ρ(1 − J)ᵀ(1 − J), about ½.

    Args:
        rate: η.
        precision: ρ, the weight of a prediction error.
        averaged: whether the loss is a mean over the first dimension (else a sum).

    Raises:
        InputError: a rate or precision that is not positive.
    """

    rate: float = 0.2
    precision: float = 1.0
    averaged: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot descend."""
        _refuse_not_positive("PredictiveCoding", rate=self.rate, precision=self.precision)

    @property
    def character(self) -> Character:
        """States first; errors stay, only their balance is sought."""
        return Character(leads=Field.STATE, open_output=True, vanishing=(Field.COSTATE,))

    def start(self, outputs: Sequence[Elsewhere]) -> Fields:
        """The forward pass, free of errors."""
        return Fields(tuple(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """One step of (9)."""
        return _descended(view, self.rate * _samples(view, self.averaged))

    def costate(self, view: View) -> Costate:
        """ρ r_l."""
        return view.credit

    def credit(self, view: View) -> Costate:
        """ρ r_l, ∇C at the output."""
        if view.at_output:
            return view.pulled
        return self.precision / _samples(view, self.averaged) * view.state_residual

    @property
    def automatic(self) -> bool:
        """False."""
        return False

    def calibrated(self, linearised: Linearised) -> Dynamics:
        """Itself."""
        return self

    @property
    def settles_at_once(self) -> bool:
        """False: errors balance only in the limit."""
        return False

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by small steps."""
        return min(0.02, 256 * precision / self.rate)

    def budget(self, depth: int) -> int:
        """Diffusion over the whole depth."""
        return ceil(4 * depth * depth / (self.rate * self.precision)) + 100


@final
@dataclass(frozen=True)
class AugmentedLagrangian(Dynamics):
    """Predictive coding with local multipliers, PC-ALM: descent in x and ascent in λ of 𝓛 + ρ/2 Σ‖r_l‖².

        e_l = λ_l + ρ r_l,     x_l ← x_l + η (e_l − J_{l+1}ᵀ e_{l+1}),     λ_l ← λ_l + α r_l                       (10)

    A damped wave over depth: credit travels ballistically, T√(αη) layers in T ticks. Costates move first in a tick, so
    that the last tick ends with the states and e is the credit before the next multiplier step. The output is open.
    In linear networks the fixed point is backprop's; on ReLU networks it is good at a budget of about 2L ticks.

    Cost per tick and site: one evaluation and one pull-back. Stable for η σ²(2ρ + α) < 4, σ the largest singular
    value of 1 − J.

    Args:
        rate: η, about ¼.
        dual_rate: α.
        penalty: ρ.
        averaged: whether the loss is a mean over the first dimension (else a sum).

    Raises:
        InputError: a rate or penalty that is not positive.

    Reference:
        Seely & Gould, Augmented Lagrangian Predictive Coding, arXiv 2605.31022.
    """

    rate: float = 0.23
    dual_rate: float = 1.0
    penalty: float = 1.0
    averaged: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot descend."""
        _refuse_not_positive("AugmentedLagrangian", rate=self.rate, dual_rate=self.dual_rate, penalty=self.penalty)

    @property
    def character(self) -> Character:
        """Costates first, so that a tick ends with the states."""
        return Character(leads=Field.COSTATE, open_output=True, patience=_patience(self.dual_rate / self.penalty))

    def start(self, outputs: Sequence[Elsewhere]) -> Fields:
        """The forward pass, multipliers zero."""
        return Fields(tuple(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """Descent in x_l."""
        return _descended(view, self.rate * _samples(view, self.averaged))

    def costate(self, view: View) -> Costate:
        """Ascent in λ_l; ∇C at the output."""
        if view.at_output:
            return view.pulled
        return view.costate.add(view.state_residual, alpha=self.dual_rate / _samples(view, self.averaged))

    def credit(self, view: View) -> Costate:
        """e_l, ∇C at the output."""
        if view.at_output:
            return view.pulled
        return view.costate.add(view.state_residual, alpha=self.penalty / _samples(view, self.averaged))

    @property
    def automatic(self) -> bool:
        """False."""
        return False

    def calibrated(self, linearised: Linearised) -> Dynamics:
        """Itself."""
        return self

    @property
    def settles_at_once(self) -> bool:
        """False: fields ring down to the solution."""
        return False

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by small steps."""
        return min(0.02, 256 * precision / self.rate)

    def budget(self, depth: int) -> int:
        """Many round trips."""
        return ceil(200 * depth / self.rate)


def _descended(view: View, step: float) -> State:
    """One step of descent in x_l; the output is no variable and follows its prediction."""
    return view.prediction if view.at_output else view.state.add(view.credit - view.pulled, alpha=step)


def _patience(gain: float) -> int:
    """The longest delay τ of a site's own multiplier with α/ρ < 2 sin(π/(2(2τ + 1))) (13), at least 0."""
    delay = 0
    while gain < 2 * sin(pi / (2 * (2 * delay + 3))):
        delay += 1
    return delay


def _samples(view: View, averaged: bool) -> int:
    return view.samples if averaged else 1


def _refuse_not_positive(name: str, **values: float) -> None:
    for argument, value in values.items():
        if not (isfinite(value) and value > 0):
            raise InputError(f"{name}({argument}={value})", "a positive finite number", f"leave {argument} out")

"""Dyadic relaxation: one-way waves that reflect nothing."""

from dataclasses import dataclass
from math import ceil, isfinite
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.types import Costate, State
from worldsheet.dynamics.base import Character, Dynamics
from worldsheet.dynamics.coefficients import Coefficients, Mix
from worldsheet.problem import View


@final
@dataclass(frozen=True)
class Dyadic(Dynamics):
    """Direct coupling: the state residual moves the state, the costate residual moves the costate.

        x_l ← x_l + η r_l,    λ_l ← λ_l + η g_l                                                    (7)

    Both fields are advected, states towards the output and costates towards the input, one layer per tick. At η = 1 the
    states are exact after L ticks and the costates, hence backprop's gradient, after 2L, from any start. All
    eigenvalues of the flow are −1, so 0 < η < 2 converges, more slowly the further η is from 1. The move is written as
    an interpolation towards the message, so that η = 1 copies it to the last bit.

    In the doubled reading x̂ = x + λ/2, ẑ = x − λ/2 this is gradient ascent of x̂ and descent of ẑ on
    E = λᵀ(f(x) − x) + C(x); see `Fields.doubled`.

    Cost per tick and site: one evaluation and one pull-back of one layer.

    Args:
        rate: η, the fraction of the residual that is taken up per tick.

    Raises:
        InputError: a rate outside (0, 2).

    Reference:
        Scurria, Backpropagation as Physical Relaxation, arXiv 2602.02281; the update in (x̂, ẑ) is derived.
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a rate at which the relaxation cannot converge."""
        if not (isfinite(self.rate) and 0 < self.rate < 2):
            raise InputError(
                f"Dyadic: rate must be strictly between 0 and 2, got {self.rate}",
                "a rate above 0 and below 2, the stability limit of the flow",
                "use rate=1 for exact gradients in 2L ticks",
            )

    @property
    def character(self) -> Character:
        """Neither field leads, and both rest."""
        if self.rate == 1:
            return Character(
                cure="use Synchronous() or Wavefront(), under which it is exact after a known number of ticks"
            )
        return Character(cure="use a rate closer to 1")

    def state(self, view: View) -> State:
        """x_l + η r_l."""
        return view.prediction if self.rate == 1 else view.state.lerp(view.prediction, self.rate)

    def costate(self, view: View) -> Costate:
        """λ_l + η g_l."""
        return view.pulled if self.rate == 1 else view.costate.lerp(view.pulled, self.rate)

    def credit(self, view: View) -> Costate:
        """λ_l itself."""
        return view.costate

    def coefficients(self, samples: int) -> Coefficients:
        """As sums: x += η r, λ += η (p − λ), e = λ."""
        del samples
        return Coefficients(Mix(residual=self.rate), Mix(costate=-self.rate, pulled=self.rate), Mix(costate=1.0))

    @property
    def settles_at_once(self) -> bool:
        """True at η = 1."""
        return self.rate == 1

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by slow rates, and more by ringing ones: at every layer anew."""
        return min(0.02, 32 * precision / (self.rate if self.rate <= 1 else (2 - self.rate) ** 4))

    def budget(self, depth: int) -> int:
        """Ten times the 2·depth/min(η, 2 − η) ticks in which the mean signal makes the round trip."""
        return ceil(10 * (2 * depth + 10) / min(self.rate, 2 - self.rate))

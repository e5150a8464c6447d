"""Cross coupling: the wave equation over depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, isfinite, pi, sin
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.field import Field
from worldsheet.core.shapes import Costate, Elsewhere, State
from worldsheet.dynamics.base import Character, Dynamics, zeros_like
from worldsheet.dynamics.impedance import Impedance
from worldsheet.problem import Fields, Linearised, View


@final
@dataclass(frozen=True)
class Wave(Dynamics):
    """Cross-coupled relaxation: the costate residual drives the state and the state residual the costate.

        x_l ← x_l + γ r_l − ν z g_l,     λ_l ← λ_l + γ g_l + (ν/z) r_l                                (11)

    with γ = c cos φ, ν = c sin φ and φ = (1 − matching) π/2. In wave variables a = x + zλ and b = x − zλ, ν carries a
    towards the output and b towards the input at speed c, and γ absorbs what junctions reflect: matching 0 is the
    lossless worldsheet, which rings, matching 1 the perfectly matched one, which is `Dyadic(rate=speed)`. States move
    first and costates read them moved. Costates are meant per sample: where the loss is a batch mean they are
    multiplied by the batch size before z is applied.

    Cost per tick and site: one evaluation and one pull-back.

    Args:
        speed: c, in layers per tick; the Courant limit is near 1 and falls with ‖1 − J‖.
        impedance: z, states per costate.
        matching: between 0, pure wave, and 1, no reflection.
        averaged: whether the loss is a mean over the first dimension (else a sum).

    Raises:
        InputError: speed or impedance not positive, matching outside [0, 1].

    Reference:
        Pehle & Slotine, Unlocked Backpropagation using Wave Scattering, arXiv 2602.10461; (11) is derived.
    """

    speed: float = 0.7
    impedance: float | Impedance = 1.0
    matching: float = 0.8
    averaged: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no wave."""
        scalar = 1.0 if isinstance(self.impedance, Impedance) else self.impedance
        if not (isfinite(self.speed) and self.speed > 0 and isfinite(scalar) and scalar > 0):
            raise InputError(f"{self}", "a positive speed and impedance", "use Wave(speed=0.7, impedance=1.0)")
        if not 0 <= self.matching <= 1:
            raise InputError(f"{self}", "matching between 0 and 1", "use 1 for Dyadic, 0 for the lossless wave")

    @property
    def character(self) -> Character:
        """States first."""
        return Character(leads=Field.STATE)

    def start(self, outputs: Sequence[Elsewhere]) -> Fields:
        """Silence."""
        return Fields(zeros_like(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """x_l + γ r_l − ν z g_l."""
        absorbing, crossing = self._rates
        z = self._scaled(view)
        return view.state + absorbing * view.state_residual - crossing * z * view.costate_residual

    def costate(self, view: View) -> Costate:
        """λ_l + γ g_l + (ν/z) r_l."""
        absorbing, crossing = self._rates
        z = self._scaled(view)
        return view.costate + absorbing * view.costate_residual + crossing / z * view.state_residual

    def credit(self, view: View) -> Costate:
        """λ_l itself."""
        return view.costate

    @property
    def automatic(self) -> bool:
        """False."""
        return False

    def calibrated(self, linearised: Linearised) -> Dynamics:
        """Itself."""
        return self

    @property
    def settles_at_once(self) -> bool:
        """False: waves cross many times."""
        return False

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by slow speeds."""
        return min(0.02, 256 * precision / self.speed)

    def budget(self, depth: int) -> int:
        """Some fifty crossings."""
        return ceil(50 * (depth + 4) / self.speed)

    @property
    def _rates(self) -> tuple[float, float]:
        angle = (1 - self.matching) * pi / 2
        return self.speed * cos(angle), self.speed * sin(angle)

    def _scaled(self, view: View) -> float:
        if isinstance(self.impedance, Impedance):
            raise InputError(f"{self}", "a positive number over layers of a network", "use impedance=1.0")
        return self.impedance * (view.samples if self.averaged else 1)

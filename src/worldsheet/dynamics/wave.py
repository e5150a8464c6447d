"""Cross coupling: the wave equation over depth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, cos, inf, isfinite, pi, sin, sqrt
from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, Field, State
from worldsheet.dynamics.base import Character, zeros_like
from worldsheet.dynamics.impedance import Impedance, Matched
from worldsheet.dynamics.per_prediction import PerPrediction, refuse_no_positions
from worldsheet.dynamics.per_site import refuse_not_positive
from worldsheet.dynamics.spectrum import SAFETY, largest_eigenvalue, residual_gain
from worldsheet.problem import Linearised, View


class Courant(Enum):
    """What happens to a speed beyond the Courant limit."""

    SHRINK = "shrink"
    """It is lowered to the limit."""
    REFUSE = "refuse"
    """An `InputError` names the limit."""
    TRUST = "trust"
    """The limit is not estimated."""


def courant_limit(linearised: Linearised, impedances: Sequence[float], matching: float) -> float:
    """The speed c at which a wave of these impedances stops being stable, times 1/`SAFETY`.

        (γ + ν)²‖K‖² + 2 ν z_L k = 4,     K = Z^{-½}(1 − N)Z^{½},  γ = c cos φ,  ν = c sin φ           (W4)

    k is the cost's largest curvature. Exact for the lossless wave, ν‖K‖ < 2; sufficient with matching, where K is as if
    it were normal. Perfectly matched, K is triangular and the limit is 2.

    Args:
        linearised: the layers' Jacobians.
        impedances: z_l in units of state per costate.
        matching: φ = (1 − matching) π/2.
    """
    if matching == 1:
        return 2.0
    angle = (1 - matching) * pi / 2
    gain = (cos(angle) + sin(angle)) * residual_gain(linearised, impedances)
    stiffness = largest_eigenvalue(linearised.curved, linearised.at_outputs)
    head = sin(angle) * max(impedances[index] for index in linearised.outputs) * max(stiffness, 0.0)
    return (sqrt(head**2 + 4 * gain**2) - head) / gain**2 / SAFETY


_MATCHED = Matched()


class Output(Enum):
    """How the cost ends the line."""

    EXPLICIT = "explicit"
    """By its slope at the state as it was: any loss."""
    PROXIMAL = "proximal"
    """By its slope at the new state, x + ν z ∇C(x) = what arrives: as stable at any stiffness of the cost."""


@final
@dataclass(frozen=True)
class Wave(PerPrediction):
    """Cross-coupled relaxation: the costate residual drives the state and the state residual the costate.

        x_l ← x_l + γ r_l − [ν z g_l],     λ_l ← λ_l + γ g_l + (ν/z) r_l                              (11)

    with γ = c cos φ, ν = c sin φ and φ = (1 − matching) π/2. In wave variables a = x + zλ and b = x − zλ
    (`Fields.waves`), ν carries a towards the output and b towards the input at speed c, and γ absorbs what junctions
    reflect: matching 0 is the lossless worldsheet, which rings, matching 1 the perfectly matched one, which is
    `Dyadic(rate=speed)`. States move first and costates read them moved.

    The bracket is a limiter: entry by entry, |ν z g| is cut off at `limit`·|γ r|. What a wave does to a state is then
    never more than a fraction of what brings it to rest, so that |r_l| shrinks by |1 − γ| + limit·γ in every tick once
    the sites below are at rest: every feed-forward network converges, at any impedance and from any start, in O(L)
    ticks (some 3 L with the defaults). A linear wave, limit = ∞, may not: see docs/theory.md.

    Cost per tick and site: one evaluation and one pull-back. Stable for γ(1 + limit) < 2, without a limiter below the
    Courant limit (W4).

    Args:
        speed: c, in layers per tick.
        impedance: z, states per costate: `Matched()`, one number, or one per layer. Numbers are meant per sample: where
            the loss is a batch mean they are multiplied by the batch size.
        matching: between 0, pure wave, and 1, no reflection.
        limit: largest share of the direct move that the cross coupling may take of a state; `math.inf` for none.
        courant: what to do with a speed beyond the Courant limit where there is no limiter.
        averaged: whether the loss is a mean over the first dimension (else a sum).
        output: how the cost acts on the output's state: by its slope where it is, or by its proximal step.
        positions: over how many predictions of a sample the loss averages too, the tokens of a sequence for example, so
            that a mean over batch and time is as strong per token as a mean over a batch is per sample; None to count
            the targets of a cross-entropy of shape (batch, ...), and 1 for any other loss.

    Raises:
        InputError: speed or impedance not positive, matching outside [0, 1], a limiter without direct coupling, or a
            speed beyond what the limiter allows.

    Reference:
        Pehle & Slotine, Unlocked Backpropagation using Wave Scattering, arXiv 2602.10461; (11) is derived.
    """

    speed: float = 1.0
    impedance: float | tuple[float, ...] | Impedance = _MATCHED
    matching: float = 0.8
    limit: float = 0.25
    courant: Courant = Courant.SHRINK
    averaged: bool = True
    output: Output = Output.EXPLICIT
    positions: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no wave."""
        if not isinstance(self.impedance, (int, float, Impedance)):
            object.__setattr__(self, "impedance", tuple(self.impedance))
        refuse_not_positive("Wave", speed=self.speed)
        refuse_no_positions("Wave", self.positions, self.averaged)
        for number in self._numbers:
            refuse_not_positive("Wave", impedance=number)
        if not 0 <= self.matching <= 1:
            raise InputError(
                f"Wave: matching must be between 0 and 1, got {self.matching}",
                "a number from 0 to 1",
                "use 1 for Dyadic, 0 for the lossless wave",
            )
        self._check_limit()

    def _check_limit(self) -> None:
        if not self.limit >= 0 or (isfinite(self.limit) and not (self.limit < 1 and self.matching > 0)):
            raise InputError(
                "Wave: limit must be below 1, with a positive matching, or math.inf, "
                f"got limit={self.limit} and matching={self.matching}",
                "a limit in [0, 1) together with a positive matching, or math.inf",
                "leave limit out, or use limit=math.inf for a wave that reflects freely",
            )
        if isfinite(self.limit) and self._rates[0] * (1 + self.limit) >= 2:
            bound = 2 / ((1 + self.limit) * cos((1 - self.matching) * pi / 2))
            raise InputError(
                f"Wave: speed must be below {bound:.3g} with limit={self.limit} and matching={self.matching}, "
                f"got {self.speed}",
                "a speed below 2/(1 + limit)/cos φ with φ = (1 − matching) π/2",
                "use speed=1",
            )

    @property
    def character(self) -> Character:
        """States first."""
        return Character(
            leads=Field.STATE, cure="lower the speed below the Courant limit of these layers, or give limit= a number"
        )

    def fit(self, depth: int) -> None:
        """Refuse impedances for another depth.

        Raises:
            InputError: there are such.
        """
        if isinstance(self.impedance, tuple) and len(self.impedance) != depth:
            raise _wrong_depth(len(self.impedance), depth)

    def start(self, outputs: Sequence[AnyState]) -> Fields:
        """Silence."""
        return Fields(zeros_like(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """x_l + γ r_l − [ν z g_l]."""
        absorbing, crossing = self._rates
        direct = absorbing * view.state_residual
        if crossing == 0:
            return view.state + direct
        step = crossing * self._scaled(view)
        if view.at_output and self.output is Output.PROXIMAL:
            arriving = view.state + direct
            across = arriving - view.absorbed(arriving + step * view.costate, float(step))
        else:
            across = step * view.costate_residual
        return view.state + direct - _limited(across, direct, self.limit)

    def costate(self, view: View) -> Costate:
        """λ_l + γ g_l + (ν/z) r_l."""
        absorbing, crossing = self._rates
        direct = view.costate + absorbing * view.costate_residual
        return direct if crossing == 0 else direct + (crossing / self._scaled(view)) * view.state_residual

    def credit(self, view: View) -> Costate:
        """λ_l itself."""
        return view.costate

    @property
    def automatic(self) -> bool:
        """True while the impedance or the Courant limit is to be estimated."""
        if self.matching == 1:
            return False
        unchecked = self.limit == inf and self.courant is not Courant.TRUST
        return unchecked or isinstance(self.impedance, Impedance)

    def calibrated(self, linearised: Linearised) -> "Wave":
        """The impedance in numbers, the speed below the Courant limit.

        Raises:
            InputError: impedances for another depth, or a speed that is to be refused.
        """
        if not self.automatic:
            return self
        samples = float(self._count(linearised.samples))
        profile = self._profile(linearised, samples)
        speed = self.speed
        if self.limit == inf and self.courant is not Courant.TRUST:
            bound = courant_limit(linearised, [samples * z for z in profile], self.matching)
            if speed > bound and self.courant is Courant.REFUSE:
                raise InputError(
                    f"Wave: speed must be below the Courant limit of these layers, {bound:.4g}, got {speed}",
                    "a speed at which waves do not grow",
                    "lower the speed, raise matching, or use Courant.SHRINK",
                )
            speed = min(speed, bound)
        return replace(self, speed=speed, impedance=profile, courant=Courant.TRUST)

    @property
    def settles_at_once(self) -> bool:
        """False: waves cross many times."""
        return False

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by slow speeds and by impedances."""
        return min(0.02, 2048 * precision / self.speed)

    def budget(self, depth: int) -> int:
        """Some fifty crossings."""
        return ceil(50 * (depth + 4) / self.speed)

    def impedances(self, depth: int) -> tuple[float, ...]:
        """z_l for the sites 1..depth, per sample where the loss is a batch mean.

        Raises:
            InputError: impedances for another depth, or an impedance that has not been estimated yet.
        """
        if isinstance(self.impedance, Impedance):
            raise InputError(
                f"Wave: impedance has not been estimated yet, it is {self.impedance}",
                "an impedance in numbers",
                "use ws.calibrate(chain, x, target, wave) first",
            )
        profile = self._numbers if isinstance(self.impedance, tuple) else self._numbers * depth
        if len(profile) != depth:
            raise _wrong_depth(len(profile), depth)
        return profile

    def _profile(self, linearised: Linearised, samples: float) -> tuple[float, ...]:
        if isinstance(self.impedance, Impedance):
            return tuple(z / samples for z in self.impedance.profile(linearised))
        return self.impedances(len(linearised.states))

    @property
    def _numbers(self) -> tuple[float, ...]:
        if isinstance(self.impedance, Impedance):
            return ()
        return self.impedance if isinstance(self.impedance, tuple) else (self.impedance,)

    @property
    def _rates(self) -> tuple[float, float]:
        angle = (1 - self.matching) * pi / 2
        return self.speed * cos(angle), self.speed * sin(angle)

    def _scaled(self, view: View) -> float | Tensor:
        z = view.own(self._numbers) if isinstance(self.impedance, tuple) else self._numbers[0]
        return z * self._count(view.samples)


def _wrong_depth(given: int, depth: int) -> InputError:
    return InputError(
        f"Wave: impedance must have one number for each of {depth} layers, got {given}",
        f"{depth} numbers, or one for all layers",
        "count the layers with len(chain), or give one number",
    )


def _limited(move: Tensor, direct: Tensor, limit: float) -> Tensor:
    """A move, entry by entry no larger than `limit` times the direct one."""
    if limit == inf:
        return move
    bound = limit * direct.abs()
    if move.is_complex():
        size = move.abs()
        return torch.where(size > bound, move * (bound / size.clamp(min=torch.finfo(size.dtype).tiny)), move)
    return move.clamp(-bound, bound)

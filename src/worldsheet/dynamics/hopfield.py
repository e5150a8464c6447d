"""A Hopfield-like energy, whose layers act on each other both ways: the network of equilibrium propagation."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, Field, State
from worldsheet.dynamics.base import Character, zeros_like
from worldsheet.dynamics.per_prediction import PerPrediction, refuse_no_positions
from worldsheet.dynamics.per_site import PerSite, kept, moved, numbers, own, refuse_not_positive, refuse_other_depth
from worldsheet.problem import View


@final
@dataclass(frozen=True)
class Hopfield(PerPrediction):
    """Descent of a Hopfield-like energy E and of a weak pull of the cost, for equilibrium propagation.

        E = Σ_l ½‖x_l‖² − x_lᵀ f_l(x_{l−1}),    F = E + β C                                               (9e)
        x_l ← x_l + η (f_l(x_{l−1}) + J_{l+1}ᵀ x_{l+1} − x_l),    x_L ← x_L + η (f_L(x_{L−1}) − β ∇C − x_L)

    Every layer acts upward by f and downward by its transpose at full strength, so that the free network is no forward
    pass: its output is where E is least. It is trained on the cost there, C(x_L*), whose gradient is the difference of
    two rests, (∂F/∂θ at β − ∂F/∂θ at −β)/2β, up to order β²: `centred` takes both. A single rest has no gradient, and
    is refused one. Moves are those of nudged predictive coding (9a), with λ_l ≡ r_l/β, but for what a site sends down:
    λ there, and −x_l/β here, which parameters answer to too.

    Layers whose values are bounded, as W tanh(x), bound E from below; it has one rest where the layers together
    contract, and may have several elsewhere. Rates are per sample, as in `PredictiveCoding`. Cost per tick and site:
    one evaluation and one pull-back. Stable for η < 2/λ_max of 1 − N − Nᵀ, N the shift through the layers, and of
    what the layers' curvature adds: ½ for layers of norm 1 and less.

    Args:
        nudge: β, positive or negative; small, of the size at which rounding does not show.
        rate: η, one number or one per site.
        averaged: whether the loss is a mean over the first dimension (else a sum).
        positions: over how many predictions of a sample the loss averages too; None to count the targets of a
            cross-entropy of shape (batch, ...), and 1 for any other loss.

    Raises:
        InputError: a rate that is not positive, or a nudge of zero.

    Reference:
        Scellier & Bengio, Equilibrium Propagation, arXiv 1602.05179; both signs of the nudge: Laborieux et al., arXiv
        2006.03824. Layers are applied before the interaction, which is then linear.
    """

    nudge: float = 0.1
    rate: PerSite = 0.3
    averaged: bool = True
    positions: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot descend, and no nudge."""
        object.__setattr__(self, "rate", kept(self.rate))
        refuse_not_positive("Hopfield", rate=self.rate)
        refuse_no_positions("Hopfield", self.positions, self.averaged)
        if not (isfinite(self.nudge) and self.nudge != 0):
            raise InputError(
                f"Hopfield: nudge must be finite and not zero, got {self.nudge}",
                "a positive or negative number",
                "use Hopfield(nudge=0.1)",
            )

    @property
    def character(self) -> Character:
        """States first; at rest λ ≡ r/β balances what comes down."""
        return Character(
            leads=Field.STATE,
            contrasted=True,
            vanishing=(Field.COSTATE,),
            cure="use a smaller rate, or smaller weights: large ones let the layers excite each other",
        )

    def start(self, outputs: Sequence[AnyState]) -> Fields:
        """The forward pass."""
        return Fields(tuple(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """One step of (9e)."""
        return moved(view.state, view.state_residual.sub(view.pulled, alpha=self._scale(view)), own(self.rate, view))

    def costate(self, view: View) -> Costate:
        """r_l/β."""
        return view.state_residual / self._scale(view)

    def credit(self, view: View) -> Costate:
        """−x_l/β."""
        return view.state / -self._scale(view)

    def fit(self, depth: int) -> None:
        """Refuse rates of another number of sites."""
        refuse_other_depth("Hopfield", depth, rate=self.rate)

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by small steps and by a small nudge."""
        return min(0.02, 256 * precision / (min(numbers(self.rate)) * min(1.0, abs(self.nudge))))

    def budget(self, depth: int) -> int:
        """Some tens of round trips through the layers."""
        return ceil(40 * (depth + 10) / min(numbers(self.rate)))

    def _scale(self, view: View) -> float:
        return self.nudge * self._count(view.samples)

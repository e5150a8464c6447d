"""Predictive coding in its errors: the credit that they follow has come through the whole network."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import final

import torch

from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, Field, State
from worldsheet.dynamics.base import Character, zeros_like
from worldsheet.dynamics.descent import CURE, LONGEST_GROWTH, Descent, chosen, slowest
from worldsheet.dynamics.per_prediction import refuse_no_positions
from worldsheet.dynamics.per_site import (
    PerSite,
    at,
    kept,
    moved,
    own,
    refuse_not_positive,
    refuse_other_depth,
    refuse_unequal,
)
from worldsheet.dynamics.spectrum import Operator
from worldsheet.problem import Linearised, Sites, View


@final
@dataclass(frozen=True)
class ErrorBasedCoding(Descent):
    """Error-based predictive coding, ePC: descent of C + ρ/2 Σ‖r_l‖² in the errors of the layers instead of the states.

        λ_l ← λ_l + η (G_l − λ_l),     G_l = J_{l+1}ᵀ G_{l+1},  G_L = ∇C,     x_l ← f_l(x_{l−1}) − λ_l/ρ          (9c)

    The energy is that of `PredictiveCoding`, and so is the rest: there G = λ ≡ ρ r. The way there is another. States
    follow their errors through all layers above within the tick, and G is the whole derivative of the cost, which has
    come down through all of them, so that credit reaches the first layer at the first tick, undiminished, whatever the
    depth; descent in the states lets it diffuse. The price is locality in time: a tick is a forward and a backward pass
    through the network, one layer after the other, and not one step of all sites at once. Space stays local, and what
    parameters answer to is λ_l at their own layer. The output is open.

    Rates are per sample, as in `PredictiveCoding`. By default a relaxation ends after 3/η ticks, at most 20; with
    `Stop(tol=…)` it waits for rest. Cost per tick: one evaluation and one pull-back of every layer. Stable for
    η < 2/λ_max of 1 + Mᵀ ∇²C M/ρ, M = (1 − N)⁻¹, N the shift through the layers. It moves all sites at once:
    `Leapfrog(Field.COSTATE)`, the default, or `Synchronous`, where states follow the errors of the tick before.

    Args:
        rate: η, one number or one per site; None for 1/λ_max, estimated by power iteration at the forward pass.
        precision: ρ, the weight of an error, one number or one per site.
        averaged: whether the loss is a mean over the first dimension (else a sum).
        positions: over how many predictions of a sample the loss averages too; None to count the targets of a
            cross-entropy of shape (batch, ...), and 1 for any other loss.

    Raises:
        InputError: a rate or precision that is not positive.

    Reference:
        Goemaere, Oliviers, Bogacz & Demeester, Error Optimization: Overcoming Exponential Signal Decay in Deep
        Predictive Coding Networks, arXiv 2505.20137.
    """

    rate: PerSite | None = None
    precision: PerSite = 1.0
    averaged: bool = True
    positions: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot descend."""
        object.__setattr__(self, "rate", None if self.rate is None else kept(self.rate))
        object.__setattr__(self, "precision", kept(self.precision))
        refuse_not_positive("ErrorBasedCoding", rate=self.rate, precision=self.precision)
        refuse_unequal("ErrorBasedCoding", rate=self.rate, precision=self.precision)
        refuse_no_positions("ErrorBasedCoding", self.positions, self.averaged)

    @property
    def character(self) -> Character:
        """Costates first, then the states that follow them; the messages from above have crossed the network."""
        return Character(
            leads=Field.COSTATE,
            open_output=True,
            whole_credit=True,
            vanishing=(Field.COSTATE,),
            descends=True,
            growth=LONGEST_GROWTH,
            cure=CURE,
        )

    def start(self, outputs: Sequence[AnyState]) -> Fields:
        """The forward pass, free of errors."""
        return Fields(tuple(outputs), zeros_like(outputs))

    def state(self, view: View) -> State:
        """The prediction and its error; the prediction alone at the output."""
        if view.at_output:
            return view.prediction
        return moved(view.prediction, view.costate, -self._count(view.samples) / own(self.precision, view))

    def costate(self, view: View) -> Costate:
        """One step of descent; ∇C at the output."""
        return view.pulled if view.at_output else view.costate.lerp(view.pulled, own(chosen(self.rate), view))

    def credit(self, view: View) -> Costate:
        """λ_l, which parameters answer to; ∇C at the output."""
        return view.pulled if view.at_output else view.costate

    def fit(self, depth: int) -> None:
        """Refuse rates or precisions of another number of sites."""
        refuse_other_depth("ErrorBasedCoding", depth, rate=self.rate, precision=self.precision)

    def _curvature(self, linearised: Linearised) -> Operator:
        """In the errors, over ρ."""
        count = self._count(linearised.samples)
        weights = [sqrt(count / at(self.precision, site)) for site in linearised.topology.sites]
        return lambda tangents: _curved(linearised, tangents, weights)

    def tolerance(self, precision: float) -> float:
        """Rounding, amplified by small steps."""
        return min(0.02, 256 * precision / slowest(self.rate))

    def budget(self, depth: int) -> int:
        """What the errors that nothing bends need, which decay by 1 − η a tick, at any depth."""
        del depth
        return ceil(50 / slowest(self.rate)) + 20

    def default_budget(self, depth: int) -> int:
        """Until an error that nothing bends is within 5 % of rest, at most 20 ticks."""
        del depth
        return min(20, ceil(3 / slowest(self.rate)))


def _curved(linearised: Linearised, tangents: Sites, weights: Sequence[float]) -> Sites:
    """(1 + W Mᵀ ∇²C M W) v over the sites that have errors, W² = B/ρ; an output that only the cost reads has none."""
    is_open = [site in linearised.topology.open_ends for site in linearised.topology.sites]
    errors = tuple(torch.zeros_like(v) if no_error else v for v, no_error in zip(tangents, is_open, strict=True))
    carried = linearised.through([weight * v for weight, v in zip(weights, errors, strict=True)])
    ends = linearised.outputs
    bend = dict(zip(ends, linearised.curved([carried[index] for index in ends]), strict=True))
    arriving = linearised.through_back([bend.get(index, torch.zeros_like(v)) for index, v in enumerate(errors)])
    return tuple(
        torch.zeros_like(v) if no_error else v + weight * pulled
        for v, pulled, weight, no_error in zip(errors, arriving, weights, is_open, strict=True)
    )

"""What descents of prediction energies share: the size of their steps."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, cast

from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.dynamics.base import Dynamics
from worldsheet.dynamics.per_prediction import PerPrediction
from worldsheet.dynamics.per_site import PerSite, at, numbers
from worldsheet.dynamics.spectrum import Operator, largest_eigenvalue
from worldsheet.problem import Linearised, Sites

CURE = "use a smaller rate, or leave it out: it is then estimated from the layers"
"""What to try when a step was unstable."""

LONGEST_GROWTH = (
    1.06  # measured over three ticks: at most 1.05 at 1.6/λ_max, where layers are curved, 1.1 and more at 2.2/λ_max
)
"""The factor a tick by which the slope of a convex energy may grow at a stable step, as layers are curved."""


def chosen(rate: PerSite | None) -> PerSite:
    """A rate that has been chosen or estimated.

    Raises:
        InputError: one that has not.
    """
    if rate is None:
        raise InputError(
            "rate is None and has not been estimated yet", "a number", "call ws.calibrate(chain, x, target, dynamics)"
        )
    return rate


def slowest(rate: PerSite | None) -> float:
    """The smallest number of a rate that has been chosen or estimated.

    Raises:
        InputError: one that has not.
    """
    return min(numbers(chosen(rate)))


class Descent(PerPrediction):
    """Descends an energy by a step that may be left out: it is then 1/λ_max of the curvature at the forward pass."""

    @property
    @abstractmethod
    def rate(self) -> PerSite | None:
        """η, None where it is to be estimated."""

    @abstractmethod
    def _curvature(self, linearised: Linearised) -> Operator:
        """Of the energy per prediction, at the forward pass."""

    @property
    @override
    def automatic(self) -> bool:
        """Whether η is to be estimated."""
        return self.rate is None

    @override
    def calibrated(self, linearised: Linearised) -> Dynamics:
        """With η = 1/λ_max of the energy's curvature at the forward pass."""
        stiffness = self.stiffness(linearised)
        if stiffness is None:
            return self
        steepest = largest_eigenvalue(stiffness, linearised.states)
        return self.with_step(1 / (steepest or 1.0))  # without hidden sites nothing is curved, and nothing moves

    @override
    def stiffness(self, linearised: Linearised) -> Operator | None:
        """The energy's curvature at the forward pass."""
        if not self.automatic:
            return None
        self.fit(linearised.topology.size)
        return self._curvature(linearised)

    @override
    def with_step(self, rate: float) -> Dynamics:
        """With this η."""
        made: Dynamics = replace(cast(Any, self), rate=rate) if self.automatic else self
        return made


def curvature(linearised: Linearised, penalty: PerSite, count: float, nudge: float | None = None) -> Operator:
    """Of the prediction energy in the states, at the forward pass, per prediction.

        ρ (1 − N)ᵀ(1 − N) + Nᵀ ∇²C N over the hidden sites if the output is open, else with the output and β ∇²C on it.

    Args:
        linearised: the layers' Jacobians.
        penalty: ρ, of all sites or of each.
        count: how many predictions the cost is the mean of.
        nudge: β, None for an open output.
    """
    if nudge is None:
        return lambda tangents: _curved_open(linearised, tangents, penalty, count)
    return lambda tangents: _curved(linearised, tangents, penalty, abs(nudge) * count)


def _curved_open(linearised: Linearised, tangents: Sites, penalty: PerSite, samples: float) -> Sites:
    """An output that only the cost reads is no variable: its slot holds zero, and its change under the others bends it.

    One that a layer reads too is a variable, and the cost bends it directly.
    """
    is_open = [site in linearised.topology.open_ends for site in linearised.topology.sites]
    still = tuple(0 * v if no_variable else v for v, no_variable in zip(tangents, is_open, strict=True))
    ahead = linearised.ahead(still)
    at_cost = [ahead[index] if is_open[index] else still[index] for index in linearised.outputs]
    bend = dict(zip(linearised.outputs, linearised.curved(at_cost), strict=True))
    credits = [at(penalty, site) * (v - n) for site, (v, n) in enumerate(zip(still, ahead, strict=True), start=1)]
    for index, pull in bend.items():
        if is_open[index]:
            credits[index] = -samples * pull
    image = [c - b for c, b in zip(credits, linearised.back(credits), strict=True)]
    for index, pull in bend.items():
        image[index] = 0 * pull if is_open[index] else image[index] + samples * pull
    return tuple(image)


def _curved(linearised: Linearised, tangents: Sites, penalty: PerSite, strength: float) -> Sites:
    ahead = linearised.ahead(tangents)
    credits = [at(penalty, site) * (v - n) for site, (v, n) in enumerate(zip(tangents, ahead, strict=True), start=1)]
    image = [c - b for c, b in zip(credits, linearised.back(credits), strict=True)]
    for index, pull in zip(
        linearised.outputs, linearised.curved([tangents[i] for i in linearised.outputs]), strict=True
    ):
        image[index] = image[index] + strength * pull
    return tuple(image)

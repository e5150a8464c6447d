"""Impedances: how many states a costate is worth, site by site."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import final

import torch

from worldsheet.core.errors import InputError
from worldsheet.dynamics.spectrum import largest_eigenvalue, probes
from worldsheet.problem import Linearised

_RANGE = 1e-6  # an impedance below this fraction of the output's would lift rounding of the states into the costates


class Impedance(ABC):
    """What a wave sees of a junction: z in a = x + zλ, b = x − zλ."""

    @abstractmethod
    def profile(self, linearised: Linearised) -> tuple[float, ...]:
        """z_l for the sites 1..L, in units of state per costate.

        Raises:
            InputError: an impedance that these layers cannot have.
        """


@final
@dataclass(frozen=True)
class Matched(Impedance):
    """Impedances that fit the output's cost and transform through layers that amplify.

        z_L = 1/k,     z_p = z_l / max(1, margin·‖J_l‖²_F/n_l)                                        (W2)

    k is the largest curvature of the cost, so that the output reflects nothing of its stiffest direction: its factor is
    (1 − zk)/(1 + zk). A linear layer is a transformer: the best scalars on its two sides are z_l = z_p ‖J_l‖²_F/n_l. A
    layer that contracts is left alone, since what it swallows is not reflected. Each site needs its children's
    impedances and their layers' gains. On a graph the smallest of the children's demands holds. A cost without
    curvature counts as k = 1/B.

    Args:
        margin: factor on the gains. Above the largest ‖J_l‖²·n_l/‖J_l‖²_F direct coupling loses energy (W3) in every
            layer; the range of impedances, and with it rounding, grows as margin to the power L.

    Raises:
        InputError: a margin that is not positive.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no factor."""
        if not (isfinite(self.margin) and self.margin > 0):
            raise InputError(
                f"Matched: margin must be a positive finite number, got {self.margin}",
                "a factor above 0",
                "leave margin out",
            )

    def profile(self, linearised: Linearised) -> tuple[float, ...]:
        """(W2), from the output down."""
        curvature = largest_eigenvalue(linearised.curved, linearised.at_outputs)
        top = 1 / curvature if curvature > 0 else float(linearised.samples)
        gains = power_gains(linearised)
        depth = len(gains)
        found = [top] * depth
        for site in range(depth - 1, 0, -1):
            above = linearised.topology.readers[site]
            demands = [found[m - 1] / max(1.0, self.margin * gains[m - 1]) for m in above if m <= depth]
            found[site - 1] = max(min(demands, default=top), _RANGE * top)
        return tuple(found)


@final
@dataclass(frozen=True)
class Riccati(Impedance):
    """The matrix impedance of optimal control, λ = P x with P from the Riccati recursion: nothing is reflected."""

    def profile(self, linearised: Linearised) -> tuple[float, ...]:
        """Refused: a network has no running cost to make a Riccati matrix from."""
        raise InputError(
            "Wave(impedance=Riccati()) does not apply to the layers of a network, which have no running cost",
            "a number, one number per layer, or Matched()",
            "leave impedance out; Riccati() is for worldsheet.control",
        )


def power_gains(linearised: Linearised, count: int = 4) -> tuple[float, ...]:
    """‖J_l‖²_F/n_l for l = 1..L, averaged over the batch, from the images of `count` probes; 1 above the input."""
    totals = [0.0] * len(linearised.states)
    for number in range(count):
        tangents = probes(linearised.states, number)
        for index, (image, below) in enumerate(
            zip(linearised.ahead(tangents), _below(linearised, tangents), strict=True)
        ):
            totals[index] += (float(torch.linalg.vector_norm(image)) ** 2 / image.numel() / below) if below else 1.0
    return tuple(total / count for total in totals)


def _below(linearised: Linearised, tangents: tuple[torch.Tensor, ...]) -> list[float]:
    """Mean square of the tangents that each layer reads, 0 where it reads only the input."""
    found = []
    for site in linearised.topology.sites:
        read = [tangents[parent - 1] for parent in linearised.topology.parents_of(site) if parent]
        entries = sum(tangent.numel() for tangent in read)
        found.append(sum(float(torch.linalg.vector_norm(t)) ** 2 for t in read) / entries if entries else 0.0)
    return found

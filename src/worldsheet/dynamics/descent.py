"""What descents of prediction energies share: the size of their steps."""

from math import isfinite

from worldsheet.core.errors import InputError
from worldsheet.dynamics.spectrum import largest_eigenvalue
from worldsheet.problem import Linearised, Sites, View

CURE = "use a smaller rate, or leave it out: it is then estimated from the layers"
"""What to try when a step was unstable."""


def samples_of(view: View, averaged: bool) -> int:
    """The factor between ∇C and its value per sample."""
    return view.samples if averaged else 1


def number(rate: float | None) -> float:
    """A rate that has been chosen or estimated.

    Raises:
        InputError: one that has not.
    """
    if rate is None:
        raise InputError(
            "rate=None before it was estimated", "a number", "call ws.calibrate(chain, x, target, dynamics)"
        )
    return rate


def estimated_rate(linearised: Linearised, penalty: float, averaged: bool, nudge: float | None = None) -> float:
    """1/λ_max of the curvature of the prediction energy in the states, at the forward pass.

        ρ (1 − N)ᵀ(1 − N) + Nᵀ ∇²C N over the hidden sites if the output is open, else with the output and β ∇²C on it.

    Raises:
        InputError: a layer whose derivative is not finite.
    """
    samples = linearised.states[-1].shape[0] if averaged else 1
    if nudge is None:
        steepest = largest_eigenvalue(lambda v: _curved_open(linearised, v, penalty, samples), linearised.states)
    else:
        pull = abs(nudge) * samples
        steepest = largest_eigenvalue(lambda v: _curved(linearised, v, penalty, pull), linearised.states)
    return 1 / (steepest or penalty)  # without hidden sites nothing is curved, and nothing moves


def _curved_open(linearised: Linearised, tangents: Sites, penalty: float, samples: int) -> Sites:
    """The output is no variable: its slot holds zero, and its change under the others bends the cost."""
    *hidden, output = tangents
    *ahead, shifted = linearised.ahead((*hidden, 0 * output))
    credits = [penalty * (v - n) for v, n in zip(hidden, ahead, strict=True)]
    *back, _ = linearised.back((*credits, -samples * linearised.curved(shifted)))
    return (*(c - b for c, b in zip(credits, back, strict=True)), 0 * output)


def _curved(linearised: Linearised, tangents: Sites, penalty: float, strength: float) -> Sites:
    ahead = linearised.ahead(tangents)
    credits = tuple(penalty * (v - n) for v, n in zip(tangents, ahead, strict=True))
    *image, top = (c - b for c, b in zip(credits, linearised.back(credits), strict=True))
    return (*image, top + strength * linearised.curved(tangents[-1]))


def refuse_not_positive(name: str, **values: float | None) -> None:
    """Refuse constants that are given and not positive.

    Raises:
        InputError: the first of them.
    """
    for argument, value in values.items():
        if value is not None and not (isfinite(value) and value > 0):
            raise InputError(f"{name}({argument}={value})", "a positive finite number", f"leave {argument} out")

"""The Courant limit of a wave, and what to do with a step beyond it."""

from collections.abc import Sequence
from enum import Enum
from math import cos, pi, sin, sqrt

from worldsheet.dynamics.spectrum import SAFETY, largest_eigenvalue, residual_gain
from worldsheet.problem import Linearised


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

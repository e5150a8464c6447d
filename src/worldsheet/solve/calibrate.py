"""Turning the automatic constants of a dynamics into numbers."""

from typing import Any

import torch

from worldsheet.dynamics import Dynamics
from worldsheet.problem import Chain, linearise
from worldsheet.solve.calibration import Calibration
from worldsheet.solve.checks import check_chain, check_finite, check_options, inputs_of
from worldsheet.solve.positions import counting_positions


def calibrate(chain: Chain, x: Any, target: Any, dynamics: Dynamics | Calibration) -> Dynamics:
    """The same dynamics with every automatic constant estimated from the layers' Jacobians at a forward pass.

    `relax` and `backward` do this at every call where a constant is automatic. In a training loop a `Calibration`
    follows the parameters for less; a step that is estimated once becomes unstable as weights grow. Costs one
    evaluation and some tens of pull-backs of every layer. Generators, buffers and `.grad` are left as they were.

    Args:
        chain: the layers and the loss.
        x: input x_0.
        target: what the loss compares the output with.
        dynamics: its constants of the user's stay; itself if none is automatic. Where the loss is a mean over the
            positions of sequences, their number is one of them. A `Calibration` gives what it holds.

    Raises:
        InputError: arguments that cannot be right, or constants of the user's that are unstable for these layers.
        LayerError: a layer or loss that fails on what it receives.
    """
    check_chain(chain, "calibrate")
    if isinstance(dynamics, Calibration):
        return dynamics.at(chain, x, target)
    check_options(dynamics)
    inputs = inputs_of(chain, x)
    dynamics = counting_positions(dynamics, chain, x, target)
    if not dynamics.automatic:
        return dynamics
    check_finite(chain, *inputs)
    with torch.no_grad(), linearise(chain, x, target) as linearised:
        return dynamics.calibrated(linearised)

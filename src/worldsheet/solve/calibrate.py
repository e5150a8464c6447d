"""Turning the automatic constants of a dynamics into numbers."""

from typing import Any

import torch

from worldsheet.dynamics import Dynamics
from worldsheet.problem import Chain, linearise
from worldsheet.solve.checks import check_chain, check_finite, check_options, inputs_of
from worldsheet.solve.positions import positions_of


def calibrate(chain: Chain, x: Any, target: Any, dynamics: Dynamics) -> Dynamics:
    """The same dynamics with every automatic constant estimated from the layers' Jacobians at a forward pass.

    `relax` and `backward` do this at every call where a constant is automatic; a training loop may do it now and then
    instead, since the constants move as slowly as the parameters. Costs one evaluation and some tens of pull-backs of
    every layer. Generators, buffers and `.grad` are left as they were.

    Args:
        chain: the layers and the loss.
        x: input x_0.
        target: what the loss compares the output with.
        dynamics: its constants of the user's stay; itself if none is automatic. Where the loss is a mean over the
            positions of sequences, their number is one of them.

    Raises:
        InputError: arguments that cannot be right, or constants of the user's that are unstable for these layers.
        LayerError: a layer or loss that fails on what it receives.
    """
    check_chain(chain, "calibrate")
    check_options(dynamics)
    inputs = inputs_of(chain, x)
    if dynamics.counts_positions and (positions := positions_of(chain, x, target)) != 1:
        dynamics = dynamics.averaging_over(positions)
    if not dynamics.automatic:
        return dynamics
    check_finite(chain, *inputs)
    with torch.no_grad(), linearise(chain, x, target) as linearised:
        return dynamics.calibrated(linearised)

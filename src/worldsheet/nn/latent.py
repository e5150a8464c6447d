"""The free input of a generative network."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState, Point


@final
class Latent(nn.Module):
    """A latent variable z with a Gaussian prior: the first layer of a network that generates its output.

        f_1(x_0) = μ,    so that the energy (9) holds ρ_1/2 ‖z − μ‖² of the state z = x_1                    (9d)

    Of x_0 it takes the number of samples and nothing else, so that z is free: predictive coding infers it, at its rest
    the most probable z for an output that the cost pulls at, and learns μ with the other parameters. A cost that looks
    at a part of the output clamps that part, and the network fills in the rest. The precision ρ_1 is that of the first
    site: `PredictiveCoding(precision=(ρ_1, ...))`. In a module with a forward of its own it is a site by itself.

    Args:
        size: shape of z, the batch left out.
        learned: whether μ is trained; it begins at zero.

    Attributes:
        mean: μ, of shape (1, *size).

    Raises:
        InputError: no size, or one below 1.
    """

    def __init__(self, *size: int, learned: bool = True) -> None:
        super().__init__()
        if not size or min(size) < 1:
            raise InputError(
                f"Latent: size must be one or more whole numbers from 1 on, got {size}",
                "the shape of the latent variable without the batch",
                "use Latent(16)",
            )
        self.mean = Parameter(torch.zeros(1, *size), requires_grad=learned)

    def forward(self, x: Point) -> AnyState:
        """μ for each of the samples of x."""
        mean: Tensor = self.mean if self.mean.requires_grad else self.mean.detach().requires_grad_()
        return mean.expand(len(x), *self.mean.shape[1:])

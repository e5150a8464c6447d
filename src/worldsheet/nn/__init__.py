"""Modules and losses to build with: recurrent and residual layers, layers at rest, latent variables, half squares."""

from worldsheet.layers import HalfSquares
from worldsheet.nn.equilibrium import Equilibrium
from worldsheet.nn.latent import Latent
from worldsheet.nn.recurrent import Recurrent, RecurrentOutcome
from worldsheet.nn.residual import Nonlinearity, ResidualLinear, ScaledLinear, residual_mlp
from worldsheet.recurrence import Costs, LinearCell, Method

__all__ = [
    "Costs",
    "Equilibrium",
    "HalfSquares",
    "Latent",
    "LinearCell",
    "Method",
    "Nonlinearity",
    "Recurrent",
    "RecurrentOutcome",
    "ResidualLinear",
    "ScaledLinear",
    "residual_mlp",
]

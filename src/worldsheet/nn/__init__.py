"""Modules and losses a user may build with: residual layers, layers at rest, latent variables, half squares."""

from worldsheet.layers import HalfSquares
from worldsheet.nn.equilibrium import Equilibrium
from worldsheet.nn.latent import Latent
from worldsheet.nn.residual import Nonlinearity, ResidualLinear, ScaledLinear, residual_mlp

__all__ = ["Equilibrium", "HalfSquares", "Latent", "Nonlinearity", "ResidualLinear", "ScaledLinear", "residual_mlp"]

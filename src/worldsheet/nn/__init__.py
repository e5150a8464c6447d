"""Modules and losses a user may build with: residual layers for predictive coding, layers at rest, half squares."""

from worldsheet.layers import HalfSquares
from worldsheet.nn.equilibrium import Equilibrium
from worldsheet.nn.residual import Nonlinearity, ResidualLinear, ScaledLinear, residual_mlp

__all__ = ["Equilibrium", "HalfSquares", "Nonlinearity", "ResidualLinear", "ScaledLinear", "residual_mlp"]

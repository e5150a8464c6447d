"""Modules a user may build with: residual layers on which predictive coding is studied, and layers at rest."""

from worldsheet.nn.equilibrium import Equilibrium
from worldsheet.nn.residual import Nonlinearity, ResidualLinear, ScaledLinear, residual_mlp

__all__ = ["Equilibrium", "Nonlinearity", "ResidualLinear", "ScaledLinear", "residual_mlp"]

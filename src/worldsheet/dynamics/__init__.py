"""Dynamics: how one site moves."""

from worldsheet.dynamics.base import Character, Dynamics
from worldsheet.dynamics.coefficients import Coefficients, Mix
from worldsheet.dynamics.dyadic import Dyadic
from worldsheet.dynamics.impedance import Impedance, Riccati
from worldsheet.dynamics.predictive import AugmentedLagrangian, PredictiveCoding
from worldsheet.dynamics.wave import Wave

__all__ = ["AugmentedLagrangian", "Character", "Coefficients", "Dyadic", "Dynamics", "Impedance", "Mix", "PredictiveCoding", "Riccati", "Wave"]

"""Dynamics: how one site moves."""

from worldsheet.dynamics.base import Character, Dynamics
from worldsheet.dynamics.coefficients import Coefficients, Mix
from worldsheet.dynamics.dyadic import Dyadic
from worldsheet.dynamics.error_based import ErrorBasedCoding
from worldsheet.dynamics.hopfield import Hopfield
from worldsheet.dynamics.impedance import Impedance, Matched, Riccati
from worldsheet.dynamics.lagrangian import AugmentedLagrangian
from worldsheet.dynamics.predictive import Prediction, PredictiveCoding
from worldsheet.dynamics.wave import Courant, Output, Wave

__all__ = [
    "AugmentedLagrangian",
    "Character",
    "Coefficients",
    "Courant",
    "Dyadic",
    "Dynamics",
    "ErrorBasedCoding",
    "Hopfield",
    "Impedance",
    "Matched",
    "Mix",
    "Output",
    "Prediction",
    "PredictiveCoding",
    "Riccati",
    "Wave",
]

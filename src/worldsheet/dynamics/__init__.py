"""Dynamics: how one site moves."""

from worldsheet.dynamics.base import Character, Dynamics
from worldsheet.dynamics.courant import Courant
from worldsheet.dynamics.dyadic import Dyadic
from worldsheet.dynamics.impedance import Impedance, Matched, Riccati
from worldsheet.dynamics.predictive import AugmentedLagrangian, PredictiveCoding
from worldsheet.dynamics.wave import Wave

__all__ = [
    "AugmentedLagrangian",
    "Character",
    "Courant",
    "Dyadic",
    "Dynamics",
    "Impedance",
    "Matched",
    "PredictiveCoding",
    "Riccati",
    "Wave",
]

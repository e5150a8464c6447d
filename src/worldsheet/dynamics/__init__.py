"""Dynamics: how one site moves."""

from worldsheet.dynamics.base import Dynamics
from worldsheet.dynamics.dyadic import Dyadic
from worldsheet.dynamics.predictive import AugmentedLagrangian, PredictiveCoding
from worldsheet.dynamics.wave import Wave

__all__ = ["AugmentedLagrangian", "Dyadic", "Dynamics", "PredictiveCoding", "Wave"]

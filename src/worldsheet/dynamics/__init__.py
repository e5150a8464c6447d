"""Dynamics: how one site moves."""

from worldsheet.dynamics.base import Dynamics
from worldsheet.dynamics.dyadic import Dyadic

__all__ = ["Dyadic", "Dynamics"]

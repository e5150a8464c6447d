"""The verbs: relax, centred, backward, calibrate, unlocked."""

from worldsheet.solve.backward import NotConvergedWarning, backward
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.centred import Centred, centred
from worldsheet.solve.relax import relax
from worldsheet.solve.solution import Solution
from worldsheet.solve.unlocked import Held, unlocked

__all__ = [
    "Centred",
    "Held",
    "NotConvergedWarning",
    "Solution",
    "backward",
    "calibrate",
    "centred",
    "relax",
    "unlocked",
]

"""The verbs: relax, centred, backward, calibrate, unlocked."""

from worldsheet.solve.backward import NotConvergedWarning, backward
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.calibration import Calibration
from worldsheet.solve.centred import Centred, centred
from worldsheet.solve.relax import relax
from worldsheet.solve.solution import Solution
from worldsheet.solve.unlocked import UnlockedResult, unlocked

__all__ = [
    "Calibration",
    "Centred",
    "NotConvergedWarning",
    "Solution",
    "UnlockedResult",
    "backward",
    "calibrate",
    "centred",
    "relax",
    "unlocked",
]

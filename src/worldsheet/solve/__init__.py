"""The verbs: relax, backward, calibrate, compare, unlocked."""

from worldsheet.solve.backward import NotConvergedWarning, backward
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.compare import Comparison, Fidelity, compare
from worldsheet.solve.curvature import curvature
from worldsheet.solve.relax import relax
from worldsheet.solve.solution import Solution
from worldsheet.solve.unlocked import Held, unlocked

__all__ = [
    "Comparison",
    "Fidelity",
    "Held",
    "NotConvergedWarning",
    "Solution",
    "backward",
    "calibrate",
    "compare",
    "curvature",
    "relax",
    "unlocked",
]

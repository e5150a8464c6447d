"""The verbs: relax, centred, backward, calibrate, compare, unlocked."""

from worldsheet.solve.backward import NotConvergedWarning, backward
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.centred import Centred, centred
from worldsheet.solve.compare import Comparison, Fidelity, compare
from worldsheet.solve.curvature import curvature
from worldsheet.solve.relax import relax
from worldsheet.solve.solution import Solution
from worldsheet.solve.unlocked import Held, unlocked
from worldsheet.solve.waves import WaveReport, wave_report

__all__ = [
    "Centred",
    "Comparison",
    "Fidelity",
    "Held",
    "NotConvergedWarning",
    "Solution",
    "WaveReport",
    "backward",
    "calibrate",
    "centred",
    "compare",
    "curvature",
    "relax",
    "unlocked",
    "wave_report",
]

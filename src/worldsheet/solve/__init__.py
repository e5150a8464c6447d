"""The verbs: relax, backward, calibrate, compare."""

from worldsheet.solve.backward import NotConvergedWarning, backward
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.compare import Comparison, Fidelity, compare
from worldsheet.solve.relax import relax
from worldsheet.solve.solution import Solution
from worldsheet.solve.waves import WaveReport, wave_report

__all__ = [
    "Comparison",
    "Fidelity",
    "NotConvergedWarning",
    "Solution",
    "WaveReport",
    "backward",
    "calibrate",
    "compare",
    "relax",
    "wave_report",
]

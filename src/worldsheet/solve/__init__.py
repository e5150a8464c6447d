"""The verbs: relax, backward, compare."""

from worldsheet.solve.backward import NotConvergedWarning, backward
from worldsheet.solve.compare import Comparison, Fidelity, compare
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
    "compare",
    "relax",
    "unlocked",
]

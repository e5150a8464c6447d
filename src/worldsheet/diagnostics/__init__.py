"""How good gradients are, layer by layer, what a recorded wave did, where a module's sites are, how a loss curves."""

from worldsheet.diagnostics.compare import Comparison, Fidelity, compare
from worldsheet.diagnostics.curvature import curvature
from worldsheet.diagnostics.waves import WaveReport, wave_report
from worldsheet.problem import SiteRow, SiteTable

__all__ = [
    "Comparison",
    "Fidelity",
    "SiteRow",
    "SiteTable",
    "WaveReport",
    "compare",
    "curvature",
    "wave_report",
]

"""How good gradients are, layer by layer, and what a recorded wave did."""

from worldsheet.diagnostics.compare import Comparison, Fidelity, compare
from worldsheet.diagnostics.waves import WaveReport, wave_report

__all__ = ["Comparison", "Fidelity", "WaveReport", "compare", "wave_report"]

"""Experiments: a claim, what it takes to measure it, and what was found beside what was expected."""

from worldsheet.app.experiments.cells import Cells
from worldsheet.app.experiments.record import Findings, Record, Size
from worldsheet.app.experiments.script import experiment

__all__ = ["Cells", "Findings", "Record", "Size", "experiment"]

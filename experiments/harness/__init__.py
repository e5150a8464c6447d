"""Experiments: a claim, what it takes to measure it, and what was found beside what was expected."""

from experiments.harness.record import Findings, Record, Size
from experiments.harness.script import experiment
from worldsheet_lab.cells import Cells

__all__ = ["Cells", "Findings", "Record", "Size", "experiment"]

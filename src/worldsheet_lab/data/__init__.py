"""Data sets by name."""

from worldsheet_lab.data.catalogue import NAMES, load
from worldsheet_lab.data.dataset import DataSet

__all__ = ["NAMES", "DataSet", "load"]

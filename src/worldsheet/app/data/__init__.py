"""Data sets by name."""

from worldsheet.app.data.catalogue import NAMES, load
from worldsheet.app.data.dataset import DataSet

__all__ = ["NAMES", "DataSet", "load"]

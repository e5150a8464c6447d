"""Optimal control problems of the field, each with what it costs: the oracle for `worldsheet.control.solve`."""

from worldsheet_lab.control.collection.case import Case, Reference
from worldsheet_lab.control.collection.chemistry import CHEMISTRY
from worldsheet_lab.control.collection.flight import FLIGHT
from worldsheet_lab.control.collection.mechanisms import MECHANISMS
from worldsheet_lab.control.collection.textbook import TEXTBOOK
from worldsheet_lab.control.collection.vehicles import VEHICLES
from worldsheet_lab.control.collection.violation import violation

COLLECTION = {case.name: case for case in (*TEXTBOOK, *FLIGHT, *MECHANISMS, *VEHICLES, *CHEMISTRY)}

__all__ = ["COLLECTION", "Case", "Reference", "violation"]

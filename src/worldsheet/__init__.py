"""worldsheet: train networks and solve control problems with local waves instead of a backward pass."""

from worldsheet.core.errors import (
    DataMissingError,
    InputError,
    LayerError,
    RelaxationError,
    RunFolderError,
    WorldsheetError,
)
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.record import Record
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.engine import Stop
from worldsheet.problem import Chain, Fields, Topology, View
from worldsheet.schedule import Asynchronous, Schedule, Sweep, Synchronous, Wavefront, simulate
from worldsheet.solve import Comparison, Fidelity, NotConvergedWarning, Solution, backward, compare, relax
from worldsheet.version import __version__

__all__ = [
    "Asynchronous",
    "Chain",
    "Comparison",
    "DataMissingError",
    "Dyadic",
    "Dynamics",
    "Fidelity",
    "Fields",
    "InputError",
    "LayerError",
    "NotConvergedWarning",
    "Outcome",
    "Record",
    "RelaxationError",
    "RunFolderError",
    "Schedule",
    "Solution",
    "Status",
    "Stop",
    "Sweep",
    "Synchronous",
    "Topology",
    "View",
    "Wavefront",
    "WorldsheetError",
    "__version__",
    "backward",
    "compare",
    "relax",
    "simulate",
]

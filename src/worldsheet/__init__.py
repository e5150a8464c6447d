"""worldsheet: train networks and solve control problems with local waves instead of a backward pass."""

from worldsheet import port as ports
from worldsheet.core.errors import (
    DataMissingError,
    InputError,
    LayerError,
    RelaxationError,
    RunFolderError,
    WorldsheetError,
)
from worldsheet.core.field import Field
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.record import Record
from worldsheet.dynamics import (
    AugmentedLagrangian,
    Character,
    Dyadic,
    Dynamics,
    Impedance,
    PredictiveCoding,
    Riccati,
    Wave,
)
from worldsheet.engine import Stop
from worldsheet.pipeline import Current, Pipeline, Plan, Predicted, Stashed
from worldsheet.problem import Chain, Equilibrium, Fields, OffersStep, ResidualLinear, Step, Topology, View
from worldsheet.schedule import Asynchronous, Leapfrog, Schedule, Sweep, Synchronous, Wavefront, simulate
from worldsheet.solve import Comparison, Fidelity, NotConvergedWarning, Solution, backward, calibrate, compare, relax
from worldsheet.version import __version__

__all__ = [
    "Asynchronous",
    "AugmentedLagrangian",
    "Chain",
    "Character",
    "Comparison",
    "Current",
    "DataMissingError",
    "Dyadic",
    "Dynamics",
    "Equilibrium",
    "Fidelity",
    "Field",
    "Fields",
    "Impedance",
    "InputError",
    "LayerError",
    "Leapfrog",
    "NotConvergedWarning",
    "OffersStep",
    "Outcome",
    "Pipeline",
    "Plan",
    "Predicted",
    "PredictiveCoding",
    "Record",
    "RelaxationError",
    "ResidualLinear",
    "Riccati",
    "RunFolderError",
    "Schedule",
    "Solution",
    "Stashed",
    "Status",
    "Step",
    "Stop",
    "Sweep",
    "Synchronous",
    "Topology",
    "View",
    "Wave",
    "Wavefront",
    "WorldsheetError",
    "__version__",
    "backward",
    "calibrate",
    "compare",
    "ports",
    "relax",
    "simulate",
]

"""worldsheet: train networks and solve control problems with local waves instead of a backward pass."""

from worldsheet import control, streaming
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
    Prediction,
    PredictiveCoding,
    Riccati,
    Wave,
)
from worldsheet.engine import Stop
from worldsheet.pipeline import Current, Pipeline, Plan, Predicted, Stashed
from worldsheet.problem import (
    Chain,
    Fields,
    Nonlinearity,
    OffersStep,
    ResidualLinear,
    ScaledLinear,
    Step,
    Topology,
    View,
    residual_mlp,
)
from worldsheet.schedule import Asynchronous, CreditFront, Leapfrog, Schedule, Sweep, Synchronous, Wavefront, simulate
from worldsheet.solve import (
    Centred,
    Comparison,
    Fidelity,
    NotConvergedWarning,
    Solution,
    backward,
    calibrate,
    centred,
    compare,
    relax,
)
from worldsheet.version import __version__

__all__ = [
    "Asynchronous",
    "AugmentedLagrangian",
    "Centred",
    "Chain",
    "Character",
    "Comparison",
    "CreditFront",
    "Current",
    "DataMissingError",
    "Dyadic",
    "Dynamics",
    "Fidelity",
    "Field",
    "Fields",
    "Impedance",
    "InputError",
    "LayerError",
    "Leapfrog",
    "Nonlinearity",
    "NotConvergedWarning",
    "OffersStep",
    "Outcome",
    "Pipeline",
    "Plan",
    "Predicted",
    "Prediction",
    "PredictiveCoding",
    "Record",
    "RelaxationError",
    "ResidualLinear",
    "Riccati",
    "RunFolderError",
    "ScaledLinear",
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
    "centred",
    "compare",
    "control",
    "ports",
    "relax",
    "residual_mlp",
    "simulate",
    "streaming",
]

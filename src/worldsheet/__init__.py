"""worldsheet: train networks and solve control problems with local waves instead of a backward pass."""

from worldsheet import (
    control,
    diagnostics,
    dynamics,
    errors,
    extend,
    nn,
    pipeline,
    ports,
    schedules,
    streaming,
    substrates,
)
from worldsheet.core.errors import WorldsheetError
from worldsheet.core.fields import Fields
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.record import Record
from worldsheet.diagnostics import compare
from worldsheet.dynamics import AugmentedLagrangian, Dyadic, PredictiveCoding, Wave
from worldsheet.engine import Stop
from worldsheet.pipeline import Pipeline
from worldsheet.problem import Chain
from worldsheet.schedules import Asynchronous, CreditFront, Leapfrog, Scan, Sweep, Synchronous, Wavefront
from worldsheet.solve import Calibration, Solution, backward, calibrate, centred, relax, unlocked
from worldsheet.version import __version__

__all__ = [
    "Asynchronous",
    "AugmentedLagrangian",
    "Calibration",
    "Chain",
    "CreditFront",
    "Dyadic",
    "Fields",
    "Leapfrog",
    "Outcome",
    "Pipeline",
    "PredictiveCoding",
    "Record",
    "Scan",
    "Solution",
    "Status",
    "Stop",
    "Sweep",
    "Synchronous",
    "Wave",
    "Wavefront",
    "WorldsheetError",
    "__version__",
    "backward",
    "calibrate",
    "centred",
    "compare",
    "control",
    "diagnostics",
    "dynamics",
    "errors",
    "extend",
    "nn",
    "pipeline",
    "ports",
    "relax",
    "schedules",
    "streaming",
    "substrates",
    "unlocked",
]

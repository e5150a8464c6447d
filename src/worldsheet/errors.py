"""All that the library raises and warns of; each error says what is wrong, what is accepted and what to do."""

from worldsheet.core.errors import InputError, LayerError, RelaxationError, SitesChangedError, WorldsheetError
from worldsheet.solve.backward import NotConvergedWarning, UnstableStepWarning

__all__ = [
    "InputError",
    "LayerError",
    "NotConvergedWarning",
    "RelaxationError",
    "SitesChangedError",
    "UnstableStepWarning",
    "WorldsheetError",
]

"""A run folder as a report reads it: where it comes from, and what it has shown."""

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.run_folder import CONFIG, RESULT, Row, RunFolder
from worldsheet_lab.sheets import Sheet

_UNKNOWN = "not recorded"


class Run(ABC):
    """A folder that one of the commands wrote; what is missing because the run has not ended is left out.

    Args:
        folder: its files.
        label: what it is called on the page.

    Raises:
        RunFolderError: in every member: a file that is torn or of something else.
    """

    def __init__(self, folder: RunFolder, label: str) -> None:
        self.folder = folder
        self.label = label

    @property
    @abstractmethod
    def kind(self) -> str:
        """The command that wrote it."""

    @property
    @abstractmethod
    def about(self) -> str:
        """What was run, in a line."""

    @property
    @abstractmethod
    def found(self) -> Mapping[str, str]:
        """Its main figures with their units, by name; empty where it has not ended."""

    @property
    def origin(self) -> Mapping[str, str]:
        """Command, machine, moment and versions."""
        plain = self.read_json(self._marker)
        return {
            name: str(plain.get(name) or _UNKNOWN) for name in ("command", "machine", "started", "worldsheet", "torch")
        }

    @property
    def result(self) -> Row | None:
        """What it has shown; None where it has not ended."""
        return self.read_json(RESULT) if self.folder.finished else None

    @property
    def family(self) -> Hashable:
        """What it has in common with runs that differ from it in their seed only."""
        return self.label

    @property
    def sheets(self) -> Mapping[str, Sheet]:
        """The recorded relaxations, by what was relaxed."""
        return {}

    def read_json(self, name: str) -> Row:
        """A file of one JSON object."""
        try:
            plain = json.loads(self.folder.read(name))
        except ValueError as error:
            raise torn(self.folder.path / name, str(error), "one JSON object") from error
        if not isinstance(plain, dict):
            raise torn(self.folder.path / name, f"it holds a {type(plain).__name__}", "one JSON object")
        return plain

    def tensors(self, name: str, wanted: Sequence[str]) -> dict[str, Tensor]:
        """A file of tensors by name, in float64, those that are wanted at least."""
        found = self.folder.read_tensors(name)
        if missing := [key for key in wanted if key not in found]:
            raise torn(self.folder.path / name, f"it has no {', '.join(missing)}", f"tensors {', '.join(wanted)}")
        return {key: tensor.double() for key, tensor in found.items()}

    def sheet(self, name: str) -> Sheet:
        """A recorded relaxation."""
        return self.tensors(name, ("ticks", "state_residuals", "costate_residuals"))

    @property
    def _marker(self) -> str:
        """The file that keeps where it comes from."""
        return CONFIG


def sheets_of(runs: Sequence[Run]) -> dict[str, Sheet]:
    """The recorded relaxations by name, of runs that differ in their seed only the first's."""
    first: dict[Hashable, Run] = {}
    for run in runs:
        if run.sheets:
            first.setdefault(run.family, run)
    named = [(run.label, name, sheet) for run in first.values() for name, sheet in run.sheets.items()]
    return {f"{label}: {name}" if len(first) > 1 else name: sheet for label, name, sheet in named}


def torn(path: Path, found: str, accepted: str) -> RunFolderError:
    """The refusal of a file that is not what its folder says."""
    return RunFolderError(
        f"{path} is damaged or belongs to another run ({found})",
        f"{accepted}, as the command that made the folder wrote it",
        "restore the file from a copy, or leave the folder out of the report",
    )

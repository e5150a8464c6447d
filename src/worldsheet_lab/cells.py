"""The parts of an experiment, each computed once: a killed run goes on where it was."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch

from worldsheet_lab.atomic import replace_file
from worldsheet_lab.errors import RunFolderError


@final
class Cells:
    """Values by key, written to a file as soon as they are known.

    Args:
        path: the file; read if it exists.
        device: where the experiment is to compute.
        tell: is told each key that is computed.

    Raises:
        RunFolderError: a file that is not one of cells.
    """

    def __init__(self, path: Path, device: torch.device, tell: Callable[[str], object]) -> None:
        self.device = device
        self._path = path
        self._tell = tell
        self._kept: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                self._kept = dict(json.loads(path.read_text(encoding="utf-8")))
            except ValueError as error:
                problem = f"{path} cannot be read as results that were kept: {error}"
                raise RunFolderError(
                    problem, "the file that an earlier run wrote", "delete it to begin anew"
                ) from error

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value under `key`, computed if it is not known: anything that JSON can hold."""
        if key not in self._kept:
            self._tell(key)
            begun = time.perf_counter()
            value = json.loads(json.dumps(compute()))  # the same types now as after a resume
            self._kept[key] = {"value": value, "seconds": time.perf_counter() - begun}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, json.dumps(self._kept).encode())
        return self._kept[key]["value"]

    @property
    def seconds(self) -> float:
        """What all cells took, in this run and before."""
        return sum(float(cell["seconds"]) for cell in self._kept.values())

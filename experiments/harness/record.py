"""What an experiment found, and what its claim expects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Any, final

from worldsheet_lab.atomic import replace_file
from worldsheet_lab.errors import RunFolderError

Row = Mapping[str, Any]
"""A line of a table: values by column."""


class Size(Enum):
    """How much of a claim is measured."""

    SMALL = "small"
    FULL = "full"


@final
@dataclass(frozen=True)
class Findings:
    """What one measurement found.

    Attributes:
        figures: the numbers that the claim is judged by.
        tables: whatever else the picture and the reader need, as rows of values.
    """

    figures: Mapping[str, float]
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Record:
    """Findings with what they were made on.

    Attributes:
        figures: see `Findings`.
        tables: see `Findings`.
        size: how much was measured.
        command: what repeats it.
        machine: what it was measured on.
        seconds: how long it took.
    """

    figures: Mapping[str, float]
    tables: Mapping[str, Sequence[Row]]
    size: Size
    command: str
    machine: str
    seconds: float

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all; not-finite figures become null."""
        plain = {**asdict(self), "size": self.size.value}
        plain["figures"] = {name: value if isfinite(value) else None for name, value in self.figures.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())

    @staticmethod
    def load(path: Path) -> "Record":
        """Read what `save` wrote.

        Raises:
            RunFolderError: a file that is no record.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            plain["figures"] = {n: float("nan") if v is None else float(v) for n, v in plain["figures"].items()}
            return Record(**{**plain, "size": Size(plain["size"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"{path} cannot be read as a record: {error!r}", "a record of an experiment", "run the experiment anew"
            ) from error

"""A claim's folder: what is stated, what is expected, what was recorded, and the verdict."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import inf, isnan
from pathlib import Path
from typing import Any, final

from experiments.harness.record import Record, Size
from worldsheet.core.errors import InputError
from worldsheet_lab.choices import choose
from worldsheet_lab.errors import RunFolderError


class Verdict(Enum):
    """What the recorded figures say of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    CONTRADICTED = "contradicted"
    MEASURED = "measured"
    CHANGED = "changed"
    NOT_RUN = "not run"


@final
@dataclass(frozen=True)
class Expectation:
    """An interval that a figure must lie in, and what the source says of it.

    Attributes:
        low: smallest value that holds.
        high: largest.
        source: the source's own figure, None where it states none.
    """

    low: float
    high: float
    source: float | None

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "Expectation":
        """From `value` with `tolerance`, or `at_least`, `at_most`."""
        if "value" in plain:
            low, high = plain["value"] - plain["tolerance"], plain["value"] + plain["tolerance"]
        else:
            low, high = plain.get("at_least", -inf), plain.get("at_most", inf)
        return Expectation(float(low), float(high), plain.get("source"))

    def holds(self, value: float) -> bool:
        """Whether a figure is as expected; NaN never is."""
        return not isnan(value) and self.low <= value <= self.high


@final
@dataclass(frozen=True)
class Claim:
    """One folder of `experiments/`.

    `expected.json` names the claim, says where it comes from and, for each size, what its figures should be; `verdict`
    says what it means when they are so, which is `reproduced` unless the honest finding is another one.

    Attributes:
        folder: where its files are.
    """

    folder: Path

    @cached_property
    def _plain(self) -> dict[str, Any]:
        path = self.folder / "expected.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            problem = f"{path} cannot be read: {error}"
            raise RunFolderError(problem, "what the claim expects, as JSON", "restore the file") from error

    @property
    def name(self) -> str:
        """The claim's short name, as C13."""
        return str(self._plain["claim"])

    @property
    def title(self) -> str:
        """The claim in a few words."""
        return str(self._plain["title"])

    @property
    def source(self) -> str:
        """Who states it."""
        return str(self._plain["source"])

    def expectations(self, size: Size) -> dict[str, Expectation]:
        """By figure."""
        return {name: Expectation.of(plain) for name, plain in self._plain["figures"].get(size.value, {}).items()}

    def record_path(self, size: Size) -> Path:
        """Where the findings of a size are kept."""
        return self.folder / "results" / f"{size.value}.json"

    def record(self, size: Size) -> Record | None:
        """The findings of a size; None if it was never run."""
        path = self.record_path(size)
        return Record.load(path) if path.is_file() else None

    def strays(self, record: Record) -> Iterator[str]:
        """The figures that are not as expected, in words."""
        for name, expected in self.expectations(record.size).items():
            value = record.figures.get(name, float("nan"))
            if not expected.holds(value):
                yield f"{name} is {value:.6g}, expected {expected.low:.6g} to {expected.high:.6g}"

    def verdict(self, size: Size) -> Verdict:
        """What the recorded figures of a size say."""
        record = self.record(size)
        if record is None:
            return Verdict.NOT_RUN
        if any(self.strays(record)):
            return Verdict.CHANGED
        return Verdict(self._plain.get("verdict", Verdict.REPRODUCED.value))


def claims_in(folder: Path) -> dict[str, Claim]:
    """The claims of a folder by their folder's name.

    Raises:
        InputError: a folder without any.
    """
    found = {path.parent.name: Claim(path.parent) for path in sorted(folder.glob("*/expected.json"))}
    if not found:
        raise InputError(
            f"there are no experiments in {folder}",
            "a folder whose subfolders hold expected.json and run.py",
            "call from a checkout of the project, or name the folder with --folder",
        )
    return found


def labels(claims: Mapping[str, Claim]) -> dict[str, str]:
    """What each folder's claim is called in a list, by folder: with the folder's words where claims share a name."""
    count = Counter(claim.name for claim in claims.values())
    words = {folder: folder.partition("_")[2].replace("_", " ") for folder in claims}
    return {
        folder: claim.name if count[claim.name] == 1 else f"{claim.name} {words[folder]}"
        for folder, claim in claims.items()
    }


def find(name: str, claims: Mapping[str, Claim]) -> list[Claim]:
    """The claims that a name means: C13 for all folders of that claim, or one folder's name.

    Raises:
        InputError: an unknown name.
    """
    named = [claim for claim in claims.values() if claim.name.lower() == name.lower()]
    return named or [choose("experiment", name, claims)]

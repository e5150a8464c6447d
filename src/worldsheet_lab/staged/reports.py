"""How stages are getting on, told by each of them in a small file of its own."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from worldsheet_lab.atomic import replace_file
from worldsheet_lab.typed_json import from_json, to_json

FOLDER = "live"


@final
@dataclass(frozen=True)
class Report:
    """One stage at one moment; rates are over the time since its report before.

    Attributes:
        stage: which one.
        layers: its first and last layer, counted from 1.
        segment: which one it trains, counted from 1.
        segments: of the whole run.
        answered: packets of this segment whose credits have come back.
        packets: of this segment.
        samples_per_s: samples answered per second.
        busy: share of the time in which it computed.
        in_flight: packets carried up and not answered.
        staleness: updates between the last packet's way up and its credit.
        costate_norm: ‖λ‖ at its topmost site, of the last packet.
        loss: of the last packet; None where another stage has it.
    """

    stage: int
    layers: tuple[int, int]
    segment: int
    segments: int
    answered: int
    packets: int
    samples_per_s: float
    busy: float
    in_flight: int
    staleness: int
    costate_norm: float
    loss: float | None = None


@final
class Reports:
    """The newest report of each stage of a run.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def write(self, report: Report) -> None:
        """Put a stage's report in the place of its last one."""
        self._folder.mkdir(exist_ok=True)
        replace_file(self._folder / f"{report.stage}.json", to_json(report).encode(), lasting=False)

    def read(self) -> list[Report]:
        """The newest report of every stage that has told one, in order."""
        found = []
        for path in self._folder.glob("[0-9]*.json"):
            try:
                found.append(from_json(Report, path.read_bytes()))
            except (OSError, ValueError):  # of another version, or just being removed
                continue
        return sorted(found, key=lambda report: report.stage)

    def clear(self) -> None:
        """Forget all: the run is over, or begins anew."""
        shutil.rmtree(self._folder, ignore_errors=True)

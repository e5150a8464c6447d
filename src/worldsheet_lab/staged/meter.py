"""What one stage measures of itself while it trains."""

from collections.abc import Callable
from time import perf_counter
from typing import TypeAlias, final

from worldsheet.pipeline import ActionType, Completed, Stage
from worldsheet_lab.staged.reports import Report

Tell: TypeAlias = Callable[[Report], None]
"""Is given each report."""

INTERVAL = 0.5
"""Seconds between two reports of a stage."""


@final
class Meter:
    """Notes the actions of one segment and tells now and then how the stage stands.

    Args:
        stage: what is measured.
        progress: the report as it stands when the segment begins.
        samples: in each packet, in order.
        tell: is given a report every `INTERVAL` seconds and one at the end.
    """

    def __init__(self, stage: Stage, progress: Report, samples: list[int], tell: Tell) -> None:
        self.done: list[Completed] = []
        self._stage = stage
        self._progress = progress
        self._samples = samples
        self._tell = tell
        self._answered = 0
        self._since = perf_counter()
        self._seen = 0.0  # seconds of work since the last report
        self._counted = 0  # samples answered since the last report

    def note(self, done: Completed) -> None:
        """Take an action in."""
        self.done.append(done)
        self._seen += done.end - done.begin
        if done.action.act is ActionType.PULL:
            self._counted += self._samples[done.action.packet]
            self._answered += 1
        if done.end - self._since >= INTERVAL:
            self.close(done.end)

    def close(self, now: float) -> None:
        """Tell how it stands; what was counted begins anew."""
        seconds, stage = max(now - self._since, 1e-9), self._stage
        costate = stage.costate
        self._tell(
            Report(
                **{
                    **vars(self._progress),
                    "answered": self._answered,
                    "samples_per_s": self._counted / seconds,
                    "busy": min(self._seen / seconds, 1.0),
                    "in_flight": stage.in_flight,
                    "staleness": stage.staleness,
                    "costate_norm": float(costate.norm()) if costate is not None else 0.0,
                    "loss": stage.loss.item() if stage.loss is not None else None,
                }
            )
        )
        self._since, self._seen, self._counted = now, 0.0, 0

"""How a run in stages is getting on: a table of all stages on a terminal, a line per segment and epoch elsewhere."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worldsheet_lab.recipes import Recipe
from worldsheet_lab.run_folder import METRICS, Row, RunFolder
from worldsheet_lab.staged.reports import Report, Reports
from worldsheet_lab.text.recipe import TextRecipe

_PERIOD = 0.25  # seconds


@contextmanager
def watching(folder: RunFolder, length: int, console: Console) -> Iterator[None]:
    """Show what the stages tell, in a thread of its own, until the context is left."""
    Reports(folder.path).clear()
    live = _Table(folder, length) if console.is_terminal else None
    lines = _Lines(folder, length, console)
    over = Event()
    thread = Thread(target=_look_again, args=(lines, over), daemon=True)
    shown = Live(get_renderable=live.picture, console=console, refresh_per_second=4, transient=True) if live else None
    if shown is not None:
        shown.start()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if shown is not None:
            shown.stop()
        lines.look()


def _look_again(lines: "_Lines", over: Event) -> None:
    while not over.wait(_PERIOD):
        lines.look()


@final
class _Lines:
    """A line for each new row of the run's metrics; rows that a resumed run has had before are not told again."""

    def __init__(self, folder: RunFolder, length: int, console: Console) -> None:
        self._folder, self._length, self._console = folder, length, console
        self._told = len(folder.rows())

    def look(self) -> None:
        """Print what is new."""
        lines = self._folder.read(METRICS).split(b"\n")[:-1]  # behind the last end of a line one may be being written
        for line in lines[self._told :]:
            told = _line(json.loads(line), self._length)
            self._console.print(told, highlight=False, markup=False, soft_wrap=True)
        self._told = len(lines)


def length_of(recipe: Recipe | TextRecipe) -> int:
    """How long a run is: epochs of images, updates of a text."""
    return recipe.epochs if isinstance(recipe, Recipe) else recipe.updates


def _line(row: Row, length: int) -> str:
    unit = "epoch" if "epoch" in row else "update"
    where = f"{unit} {row[unit]}/{length}"
    if row["kind"] == "epoch":
        return f"{where}   {row['test_accuracy']:.2%} of the test images right"
    if row["kind"] == "validation":
        return f"{where}   validation loss {row['validation_loss']:.4f} nats per character"
    part = "tokens" if "tokens_per_s" in row else "samples"
    speed = f"{row[f'{part}_per_s']:,.0f} {part}/s"
    return f"{where}   segment {row['segment']}   loss {row['loss']:.4f}   {speed}"


@final
class _Table:
    """A row for each stage."""

    def __init__(self, folder: RunFolder, length: int) -> None:
        self._folder, self._length = folder, length
        self._reports = Reports(folder.path)

    def picture(self) -> RenderableType:
        """The stages as they stand now."""
        reports = self._reports.read()
        if not reports:
            return Text("the stages are starting", style="dim")
        return Group(_progress(reports), _stages(reports))


def _progress(reports: list[Report]) -> Table:
    slowest = min(reports, key=lambda report: (report.segment, report.answered / report.packets))
    share = (slowest.segment - 1 + slowest.answered / slowest.packets) / slowest.segments
    losses = [report.loss for report in reports if report.loss is not None]
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(
        "run",
        ProgressBar(total=1.0, completed=share, width=30),
        f"{share:.0%}",
        f"segment {slowest.segment} of {slowest.segments}",
        f"loss {losses[-1]:.4f}" if losses else "",
    )
    return row


_HEADINGS = ("samples/s", "in flight", "staleness", "‖costate‖")


def _stages(reports: list[Report]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stage", justify="right")
    table.add_column("layers")
    table.add_column("busy")
    table.add_column("", justify="right")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for report in reports:
        first, last = report.layers
        table.add_row(
            str(report.stage),
            f"{first}..{last}" if last > first else str(first),
            ProgressBar(total=1.0, completed=report.busy, width=16),
            f"{report.busy:.0%}",
            f"{report.samples_per_s:,.0f}",
            str(report.in_flight),
            str(report.staleness),
            f"{report.costate_norm:.2e}",
        )
    return table

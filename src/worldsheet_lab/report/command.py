"""`worldsheet report`: run folders as one page."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import typer
from rich.console import Console
from rich.text import Text

from worldsheet_lab.atomic import replace_file
from worldsheet_lab.commands.report import Report
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.provenance import provenance
from worldsheet_lab.report import control, energy, fidelity, learning, rivals, stages, stream, waves, worldsheets
from worldsheet_lab.report.page import Page
from worldsheet_lab.report.panel import Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.runs import runs_at

Family: TypeAlias = Callable[[Sequence[Run]], Iterator[Panel]]
"""Makes the panels of one kind from whichever runs have what it takes."""

FAMILIES: tuple[Family, ...] = (
    worldsheets.panels,
    energy.panels,
    waves.panels,
    fidelity.panels,
    learning.panels,
    rivals.panels,
    stages.panels,
    control.panels,
    stream.panels,
)


def report(options: Report) -> None:
    """Carry the command out."""
    page = page_of(runs_at(options.runs), options.title)
    content = page.html().encode()
    _write(options.out, content)
    told = {
        "report": str(options.out),
        "bytes": len(content),
        "runs": [{"run": str(run.folder.path), "kind": run.kind} for run in page.runs],
        "panels": [
            {"key": panel.key, "title": panel.title, "drawings": [drawing.title for drawing in panel.drawings]}
            for panel in page.panels
        ],
    }
    if options.as_json:
        typer.echo(json.dumps(told))
        return
    for panel in page.panels:
        typer.echo(f"  {panel.title}")
    Console(stderr=True).print(Text(f"{options.out}, {len(content) / 1e6:.1f} MB"), soft_wrap=True)


def page_of(runs: Sequence[Run], title: str = "") -> Page:
    """Everything that the runs have to show.

    Raises:
        RunFolderError: a file that is torn, or runs that have nothing to show yet.
    """
    panels = [panel for family in FAMILIES for panel in family(runs)]
    if not panels:
        raise RunFolderError(
            f"there is nothing to show yet in {', '.join(str(run.folder.path) for run in runs)}",
            "a run that has finished an epoch, at least",
            "let the run go on, with --resume if it was interrupted",
        )
    return Page(title or ", ".join(run.label for run in runs), provenance(), runs, panels)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror}",
            "a file that can be written",
            "choose another place with --out",
        ) from error

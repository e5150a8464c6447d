"""`worldsheet report`: run folders as one page."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.text import Text

from worldsheet_lab.atomic import replace_file
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.provenance import provenance
from worldsheet_lab.report import control, energy, fidelity, learning, rivals, stages, stream, waves, worldsheets
from worldsheet_lab.report.page import Page
from worldsheet_lab.report.panel import Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.runs import runs_at

EXAMPLE = "Example: worldsheet report runs/deep runs/rivals --out report.html"

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


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders that the other commands wrote")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="where the page is written")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="its heading; the runs' names if left out")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Turn run folders into one page that opens in any browser, offline.

    The worldsheet with a slider through its ticks, energies, reflections,
    fidelity by layer, learning curves over seeds, stages, control, streams.
    """
    page = page_of(runs_at(runs), title)
    content = page.html().encode()
    _write(out, content)
    told = {
        "report": str(out),
        "bytes": len(content),
        "runs": [{"run": str(run.folder.path), "kind": run.kind} for run in page.runs],
        "panels": [
            {"key": panel.key, "title": panel.title, "drawings": [drawing.title for drawing in panel.drawings]}
            for panel in page.panels
        ],
    }
    if as_json:
        typer.echo(json.dumps(told))
        return
    for panel in page.panels:
        typer.echo(f"  {panel.title}")
    Console(stderr=True).print(Text(f"{out}, {len(content) / 1e6:.1f} MB"), soft_wrap=True)


def page_of(runs: Sequence[Run], title: str = "") -> Page:
    """Everything that the runs have to show.

    Raises:
        RunFolderError: a file that is torn, or runs that have nothing to show yet.
    """
    panels = [panel for family in FAMILIES for panel in family(runs)]
    if not panels:
        raise RunFolderError(
            f"nothing to show in {', '.join(str(run.folder.path) for run in runs)}",
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
            f"{path}: {error.strerror}", "a file that can be written", "choose another place with --out"
        ) from error

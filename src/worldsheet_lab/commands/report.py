"""`worldsheet report`: its options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import typer

EXAMPLE = "Example: worldsheet report runs/deep runs/rivals --out report.html"


@final
@dataclass(frozen=True)
class Report:
    """Turn run folders into one page that opens in any browser, offline.

    The worldsheet with a slider through its ticks, energies, reflections,
    fidelity by layer, learning curves over seeds, stages, control, streams.
    """

    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders that the other commands wrote")]
    out: Annotated[Path, typer.Option(metavar="FILE", help="where the page is written")] = Path("report.html")
    title: Annotated[str, typer.Option(help="its heading; the runs' names if left out")] = ""
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False


def run(chosen: Report) -> None:
    """Write the page."""
    from worldsheet_lab.report.command import report  # noqa: PLC0415  torch, once it is needed

    report(chosen)

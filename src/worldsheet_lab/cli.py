"""The command line: `worldsheet`."""

from typing import Annotated

import typer

from worldsheet.version import __version__
from worldsheet_lab.commands import Commands
from worldsheet_lab.compare_command import EXAMPLE as COMPARE_EXAMPLE
from worldsheet_lab.compare_command import compare
from worldsheet_lab.control.command import EXAMPLE as CONTROL_EXAMPLE
from worldsheet_lab.control.command import control
from worldsheet_lab.report.command import EXAMPLE as REPORT_EXAMPLE
from worldsheet_lab.report.command import report
from worldsheet_lab.stream_command import EXAMPLE as STREAM_EXAMPLE
from worldsheet_lab.stream_command import stream
from worldsheet_lab.train_command import EXAMPLE, train

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.command(epilog=EXAMPLE)(train)
app.command(epilog=COMPARE_EXAMPLE)(compare)
app.command(epilog=STREAM_EXAMPLE)(stream)
app.command(epilog=CONTROL_EXAMPLE)(control)
app.command(epilog=REPORT_EXAMPLE)(report)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"worldsheet {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def worldsheet(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Train networks by local relaxation instead of a backward pass."""


def main() -> None:
    """The entry point of the installed command."""
    app()

"""The command line: `worldsheet`. What a command needs is imported when the command runs."""

import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from worldsheet_lab.commands import compare, control, report, stream, train
from worldsheet_lab.commands.command import command
from worldsheet_lab.commands.group import Commands

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.command(epilog=train.EXAMPLE)(command(train.Train, train.run))
app.command(epilog=compare.EXAMPLE)(command(compare.Compare, compare.run))
app.command(epilog=stream.EXAMPLE)(command(stream.Stream, stream.run))
app.command(epilog=control.EXAMPLE)(command(control.Control, control.run))
app.command(epilog=report.EXAMPLE)(command(report.Report, report.run))


def version() -> str:
    """The library's version, without importing the library."""
    library = find_spec("worldsheet")
    if library is None or library.origin is None:
        raise ModuleNotFoundError("worldsheet is not installed", name="worldsheet")
    return str(runpy.run_path(str(Path(library.origin).with_name("version.py")))["__version__"])


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"worldsheet {version()}")
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

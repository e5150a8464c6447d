"""The command line: `worldsheet`."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from worldsheet.app.bench.command import bench
from worldsheet.app.compare_command import EXAMPLE as COMPARE_EXAMPLE
from worldsheet.app.compare_command import compare
from worldsheet.app.control.command import EXAMPLE as CONTROL_EXAMPLE
from worldsheet.app.control.command import control
from worldsheet.app.experiments.command import experiments
from worldsheet.app.report.command import EXAMPLE as REPORT_EXAMPLE
from worldsheet.app.report.command import report
from worldsheet.app.stream_command import EXAMPLE as STREAM_EXAMPLE
from worldsheet.app.stream_command import stream
from worldsheet.app.train_command import EXAMPLE, train
from worldsheet.core.errors import WorldsheetError
from worldsheet.version import __version__


class _Commands(TyperGroup):
    """The commands, whose refusals are told in a few lines and not by a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WorldsheetError as error:
            text = Text.assemble(("error: ", "bold red"), error.given)
            text.append(f"\n  accepted: {error.accepted}\n  remedy: {error.remedy}")
            Console(stderr=True).print(text, soft_wrap=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.command(epilog=EXAMPLE)(train)
app.command(epilog=COMPARE_EXAMPLE)(compare)
app.command(epilog=STREAM_EXAMPLE)(stream)
app.command(epilog=CONTROL_EXAMPLE)(control)
app.command(epilog=REPORT_EXAMPLE)(report)
app.add_typer(bench, name="bench")
app.add_typer(experiments, name="experiments")


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

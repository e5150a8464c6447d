"""`python -m experiments`: list, run and tabulate the claims."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from experiments.harness.claim import Claim, Verdict, claims_in, find, labels
from experiments.harness.record import Record, Size
from experiments.harness.suite import Ending, Finished, run_all
from worldsheet_lab.commands.group import Commands

experiments = typer.Typer(
    cls=Commands,
    help="Run the claims' experiments and show what they found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Folder: TypeAlias = Annotated[Path, typer.Option(help="where the experiments are")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]

_FOLDER = Path(__file__).parents[1]
_SHOWN = 3  # figures of a claim in a table


@experiments.command("list", epilog="Example: python -m experiments list")
def listed(folder: Folder = _FOLDER, as_json: Json = False) -> None:
    """List the claims."""
    claims = claims_in(folder)
    if as_json:
        typer.echo(json.dumps({n: {"claim": c.name, "title": c.title, "source": c.source} for n, c in claims.items()}))
        return
    for name, label in labels(claims).items():
        typer.echo(f"{label:<20} {name:<22} {claims[name].title}")


@experiments.command(epilog="Example: python -m experiments run C13 --size small")
def run(
    names: Annotated[list[str] | None, typer.Argument(help="claims or folders; all if left out")] = None,
    size: Annotated[Size, typer.Option(help="small: minutes on a CPU; full: the claim's own size")] = Size.SMALL,
    out: Annotated[Path | None, typer.Option(help="where records go; beside the scripts if left out")] = None,
    folder: Folder = _FOLDER,
    jobs: Annotated[int, typer.Option(min=1, help="how many run at once, on even shares of the cores")] = 1,
    as_json: Json = False,
) -> None:
    """Run experiments; status 1 if a figure is not as expected, 2 if one could not run.

    Of all experiments, those whose data set is not on this machine are left out and named.
    """
    claims = claims_in(folder)
    chosen = [claim for name in names for claim in find(name, claims)] if names else list(claims.values())
    log, endings = Console(stderr=True), {}
    for count, done in enumerate(run_all(chosen, size, out, jobs), start=1):
        endings[done.claim.folder.name] = done.ending
        log.print(_told(done, f"{count}/{len(chosen)}"), highlight=False, markup=False)
    if as_json:
        typer.echo(json.dumps({name: ending.name.lower() for name, ending in endings.items()}))
    for status, wanted in ((2, _failures(names)), (1, {Ending.NOT_AS_EXPECTED})):
        if wanted & set(endings.values()):
            raise typer.Exit(status)


def _failures(names: list[str] | None) -> set[Ending]:
    """Data that are missing are a failure only of what was asked for by name."""
    return {Ending.FAILED, Ending.NO_DATA} if names else {Ending.FAILED}


def _told(done: Finished, count: str) -> str:
    """A line, below what it printed if it did not go well."""
    line = f"{count} {done.claim.folder.name}: {done.ending.name.lower().replace('_', ' ')}, {done.seconds:.0f} s"
    return line if done.ending is Ending.AS_EXPECTED else f"{done.log}{line}"


@experiments.command(epilog="Example: python -m experiments table --markdown")
def table(
    folder: Folder = _FOLDER,
    markdown: Annotated[bool, typer.Option("--markdown", help="as a table for a README")] = False,
    as_json: Json = False,
) -> None:
    """Tabulate what was recorded: claim, source's figure, ours, verdict, command, time."""
    claims = claims_in(folder)
    rows = [_row(label, claims[name]) for name, label in labels(claims).items()]
    if as_json:
        typer.echo(json.dumps(rows))
    elif markdown:
        typer.echo("\n".join(_markdown(rows)))
    else:
        _print(rows)


def _row(label: str, claim: Claim) -> dict[str, Any]:
    record = claim.record(Size.FULL) or claim.record(Size.SMALL)
    size = Size.SMALL if record is None else record.size
    return {
        "claim": label,
        "title": claim.title,
        "source": claim.source,
        "figures": "" if record is None else _figures(claim, record),
        "verdict": claim.verdict(size).value,
        "size": "" if record is None else size.value,
        "command": "" if record is None else record.command,
        "seconds": None if record is None else record.seconds,
        "machine": "" if record is None else record.machine,
    }


def _figures(claim: Claim, record: Record) -> str:
    """The expected figures first, the source's in brackets."""
    parts = []
    for name, expected in claim.expectations(record.size).items():
        beside = "" if expected.source is None else f" ({expected.source:.4g})"
        parts.append(f"{name.replace('_', ' ')} {record.figures.get(name, float('nan')):.4g}{beside}")
    return "; ".join(parts[:_SHOWN])


def _markdown(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| claim | | measured (source) | verdict | size, time |", "|---|---|---|---|---|"]
    for row in rows:
        took = "" if row["seconds"] is None else f"{row['size']}, {row['seconds']:.0f} s"
        lines.append(f"| {row['claim']} | {row['title']} | {row['figures']} | {row['verdict']} | {took} |")
    return lines


def _print(rows: list[dict[str, Any]]) -> None:
    console = Console()
    shown = Table("claim", "", "measured (source)", "verdict", "size", "s", box=None)
    for row in rows:
        colour = "red" if row["verdict"] == Verdict.CHANGED.value else ""
        took = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        shown.add_row(row["claim"], row["title"], row["figures"], row["verdict"], row["size"], took, style=colour)
    console.print(shown)

"""`python -m benchmarks`: what the local gradients cost beside autograd's."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.arguments import device_of, rounds_of, threads_of
from benchmarks.at_scale import scale
from benchmarks.collection import collection
from benchmarks.control import control
from benchmarks.dynamics_command import dynamics
from benchmarks.measure import Settings, measure
from benchmarks.models import CASES, Case
from benchmarks.pipeline_command import pipeline
from benchmarks.recurrent import recurrent
from benchmarks.results import Result, plain
from benchmarks.stream import stream
from benchmarks.tables import tables
from worldsheet_lab.choices import choose
from worldsheet_lab.commands.group import Commands
from worldsheet_lab.machine import Machine, this_machine

# Wide enough for the tables where there is no terminal to ask, as in a pipe or a log.
_WIDTH = 120

bench = typer.Typer(cls=Commands, help="Measure beside autograd.", no_args_is_help=True, pretty_exceptions_enable=False)


@bench.callback()
def _bench() -> None:
    """Measure beside autograd."""


bench.command(epilog="Example: python -m benchmarks dynamics --quick")(dynamics)
bench.command(epilog="Example: python -m benchmarks stream --quick")(stream)
bench.command(epilog="Example: python -m benchmarks control --quick")(control)
bench.command(epilog="Example: python -m benchmarks collection --case bryson-denham")(collection)
bench.command(epilog="Example: python -m benchmarks pipeline --quick")(pipeline)
bench.command(epilog="Example: python -m benchmarks recurrent --quick")(recurrent)
bench.command(epilog="Example: python -m benchmarks scale --figure scale.png")(scale)


@bench.command(epilog="Example: python -m benchmarks gradient --threads 1")
def gradient(
    threads: Annotated[str, typer.Option(help="CPU threads of torch, one measurement for each")] = "1,2",
    repeats: Annotated[int, typer.Option(help="rounds of autograd and wavefront; 0 for each case's own")] = 0,
    quick: Annotated[bool, typer.Option(help="few rounds and small batches: a trial of the command")] = False,
    case: Annotated[list[str] | None, typer.Option(help=f"among {', '.join(CASES)}; all if left out")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    seed: Annotated[int, typer.Option(help="weights, inputs and labels")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Measure time, memory, work and precision of one gradient by autograd and by relaxation, in turns."""
    settings = Settings(threads_of(threads), rounds_of(repeats), quick, device_of(device), seed)
    names = list(dict.fromkeys(case or ()))
    cases = [each for name in names or CASES for each in choose("case", name, CASES)]
    machine, line = this_machine(settings.device, settings.threads), _command_line(settings, names, as_json)
    log = Console(stderr=True)
    log.print(f"{machine}\n{line}", highlight=False, soft_wrap=True)
    results = _measured(cases, settings, log)
    if as_json:
        typer.echo(json.dumps(report(results, machine, line)))
    else:
        _show(results, machine, line)


def report(results: Sequence[Result], machine: Machine, line: str) -> dict[str, Any]:
    """The one object that `--json` prints; seconds and bytes, ratios to autograd."""
    return {"command": line, "machine": asdict(machine), "cases": [plain(asdict(result)) for result in results]}


def _measured(cases: Sequence[Case], settings: Settings, log: Console) -> list[Result]:
    """One line for each step, not a live bar: its thread would take time from what is timed."""
    return [measure(case, settings, lambda text: log.print(text, highlight=False)) for case in cases]


def _show(results: Sequence[Result], machine: Machine, line: str) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for table in tables(results):
        console.print(table)
        console.print()
    console.print(f"{machine}\n{line}", highlight=False, soft_wrap=True)


def _command_line(settings: Settings, names: Sequence[str], as_json: bool) -> str:
    """The command that repeats this measurement."""
    words = ["python", "-m", "benchmarks", "gradient", "--threads", ",".join(str(count) for count in settings.threads)]
    words += ["--repeats", str(settings.rounds)] if settings.rounds else []
    words += ["--quick"] * settings.quick
    words += [word for name in names for word in ("--case", name)]
    words += ["--device", str(settings.device), "--seed", str(settings.seed), *["--json"] * as_json]
    return shlex.join(words)

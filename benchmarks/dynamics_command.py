"""`python -m benchmarks dynamics`: what relaxations with a fixed number of ticks cost beside backpropagation."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, final

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.optim import SGD

from benchmarks.arguments import device_of, rounds_of, threads_of
from benchmarks.measure import Settings
from benchmarks.methods import AUTOGRAD, Method
from benchmarks.models import Instance
from benchmarks.relaxations import BATCH, STUDIES, Study, instance_of
from benchmarks.results import Timing, plain
from benchmarks.rivals import SCRIPTS, ExternalMethod, Task, running
from benchmarks.timing import Spread, Stopwatch, in_turns, paired_ratios, spread
from benchmarks.timing import threads as with_threads
from worldsheet_lab.choices import choose
from worldsheet_lab.machine import Machine, this_machine

_WIDTH = 120
_WARM_UP = 2
_QUICK_ROUNDS = 3


@final
@dataclass(frozen=True)
class Row:
    """All that was measured of one study.

    Attributes:
        case: its name.
        layers: number of sites.
        batch: inputs per gradient.
        ticks: T.
        trains: whether a step of SGD is timed with the gradient.
        goal: the method that has one, and its ratio; None for none.
        timings: by threads and method, backpropagation first.
        compiling: seconds that a rival took before its first answer, by name.
    """

    case: str
    layers: int
    batch: int
    ticks: int
    trains: bool
    goal: tuple[str, float] | None
    timings: tuple[Timing, ...]
    compiling: dict[str, float]


def dynamics(  # noqa: PLR0913, PLR0917  one for each option
    threads: Annotated[str, typer.Option(help="CPU threads, one measurement for each")] = "1,2",
    repeats: Annotated[int, typer.Option(help="rounds; 0 for each case's own")] = 0,
    quick: Annotated[bool, typer.Option(help="few rounds: a trial of the command")] = False,
    case: Annotated[list[str] | None, typer.Option(help=f"among {', '.join(STUDIES)}; all if left out")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; rivals stay on the cpu")] = "cpu",
    seed: Annotated[int, typer.Option(help="weights, inputs and labels")] = 0,
    pcx: Annotated[Path | None, typer.Option(help="a Python that has pcx")] = None,
    fabricpc: Annotated[Path | None, typer.Option(help="a Python that has fabricpc")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Measure the time of one gradient by relaxations of a fixed number of ticks and by autograd, in turns."""
    settings = Settings(threads_of(threads), rounds_of(repeats), quick, device_of(device), seed)
    names = list(dict.fromkeys(case or ()))
    studies = [each for name in names or STUDIES for each in choose("case", name, STUDIES)]
    pythons = {name: path for name, path in (("pcx", pcx), ("fabricpc", fabricpc)) if path is not None}
    machine, line = this_machine(settings.device, settings.threads), _command_line(settings, names, pythons, as_json)
    log = Console(stderr=True)
    log.print(f"{machine}\n{line}", highlight=False, soft_wrap=True)
    rows = [measured(study, settings, pythons, lambda text: log.print(text, highlight=False)) for study in studies]
    if as_json:
        found = {"command": line, "machine": asdict(machine), "cases": [plain(asdict(row)) for row in rows]}
        typer.echo(json.dumps(found))
    else:
        _show(rows, machine, line)


def measured(study: Study, settings: Settings, pythons: Mapping[str, Path], tell: Callable[[str], object]) -> Row:
    """Measure a study.

    Args:
        study: what.
        settings: how.
        pythons: of the rivals that take part.
        tell: is told what comes next; nothing is written while a clock runs.
    """
    built = instance_of(study, BATCH, settings.seed, settings.device)
    timings: list[Timing] = []
    compiling: dict[str, float] = {}
    for count in settings.threads:
        tell(f"{study.name}: {count} thread{'s' * (count > 1)}")
        taking_part = (
            running(pythons, Task(study.widths, study.ticks, BATCH, count).words) if study.widths else nullcontext(())
        )
        with taking_part as rivals, with_threads(count):
            compiling |= {rival.name: rival.compiling for rival in rivals}
            rounds = settings.rounds or (_QUICK_ROUNDS if settings.quick else study.repeats)
            timings += _timings(study, built, rivals, rounds, count)
    return Row(
        case=study.name,
        layers=len(built.chain),
        batch=BATCH,
        ticks=study.ticks,
        trains=study.trains,
        goal=study.goal,
        timings=tuple(timings),
        compiling=compiling,
    )


def _timings(
    study: Study, built: Instance, rivals: Sequence[ExternalMethod], rounds: int, count: int
) -> Iterator[Timing]:
    """Everybody in turns. `.grad` is None before each call."""
    optimizer = SGD(built.chain.parameters(), lr=1e-3) if study.trains else None
    steps: dict[str, Callable[[], None]] = {}
    steps |= {method.name: partial(_step, method, built, optimizer) for method in study.methods}
    steps |= {rival.name: rival.step for rival in rivals}
    device = built.x.device
    wait = partial(torch.get_device_module(device).synchronize, device)
    watch = Stopwatch(prepare=partial(_clear, built), wait=wait)
    in_turns(steps, _WARM_UP, watch)
    taken = in_turns(steps, rounds, watch)
    for name, seconds in taken.items():
        yield Timing(name, count, rounds, spread(seconds), paired_ratios(seconds, taken[AUTOGRAD.name]))


def _step(method: Method, built: Instance, optimizer: SGD | None) -> None:
    method.gradient(*built)
    if optimizer is not None:
        optimizer.step()


def _clear(built: Instance) -> None:
    for parameter in built.chain.parameters():
        parameter.grad = None


def _show(rows: Sequence[Row], machine: Machine, line: str) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table(rows))
    console.print(f"{machine}\n{line}", highlight=False, soft_wrap=True)


def table(rows: Sequence[Row]) -> Table:
    """Times and ratios, with the goals beside them."""
    title = "Time of one gradient (with a step of SGD where T = 20): median (quartiles), ratio in the same round"
    found = Table(title=title, title_justify="left", title_style="bold")
    for name in ("case", "method"):
        found.add_column(name, no_wrap=True)
    for name in ("T", "threads", "rounds", "time ms", "ratio", "goal"):
        found.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        for timing in row.timings:
            goal = f"≤ {row.goal[1]:g}" if row.goal is not None and row.goal[0] == timing.method else ""
            times, ratio = _spread(timing.seconds, 1e3), _spread(timing.ratio, 1.0)
            cells = (str(row.ticks), str(timing.threads), str(timing.rounds), times, ratio, goal)
            found.add_row(row.case, timing.method, *cells)
        for name in SCRIPTS if row.trains else ():
            if name not in row.compiling:
                found.add_row(row.case, name, str(row.ticks), "", "", f"not measured: no --{name}", "", "")
        found.add_section()
    return found


def _spread(values: Spread, unit: float) -> str:
    lower, median, upper = (f"{value * unit:.3g}" for value in values)
    return median if lower == upper else f"{median} ({lower}–{upper})"


def _command_line(settings: Settings, names: Sequence[str], pythons: Mapping[str, Path], as_json: bool) -> str:
    """The command that repeats this measurement, the rivals' Pythons left for the reader to name."""
    words = ["python", "-m", "benchmarks", "dynamics", "--threads", ",".join(str(count) for count in settings.threads)]
    words += ["--repeats", str(settings.rounds)] if settings.rounds else []
    words += ["--quick"] * settings.quick
    words += [word for name in names for word in ("--case", name)]
    words += ["--device", str(settings.device), "--seed", str(settings.seed)]
    words += [word for name in pythons for word in (f"--{name}", "PYTHON")]
    return shlex.join([*words, *["--json"] * as_json])

"""`worldsheet stream`: a small network learns to track a signal while you watch."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from worldsheet.core.errors import InputError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.streaming import (
    ConstantFlip,
    Dense,
    Functional,
    HamiltonianNetwork,
    NeuronModel,
    PeriodicFlip,
    Plain,
    SignPolicy,
    Squared,
    Start,
    StepResult,
    Trace,
    TrackFlip,
    costate_within,
)
from worldsheet_lab import plots
from worldsheet_lab.atomic import replace_file
from worldsheet_lab.choices import choose
from worldsheet_lab.commands.stream import Stream
from worldsheet_lab.forecast import Progress, forecaster, moments
from worldsheet_lab.series import series, until
from worldsheet_lab.signals import SIGNALS, Signal, column
from worldsheet_lab.stream_folder import save

_ROWS, _COLUMNS = 15, 72
_CURVE_POINTS = 3000
_LONGEST = 20_000  # steps that the picture goes across
_TRACKERS, _FORECASTERS = 5, 24  # neurons


SIGNS: Mapping[str, SignPolicy] = {
    "flip": ConstantFlip(),
    "plain": Plain(),
    "periodic": PeriodicFlip(0.1),
    "track": TrackFlip(costate_within(0.05)),
}


def stream(options: Stream) -> None:
    """Carry the command out."""
    if options.forecast is not None:
        forecast(options, options.forecast)
        return
    wanted, longest = (
        (choose("signal", options.signal, SIGNALS), math.inf)
        if options.csv is None
        else column(options.csv, options.spacing)
    )
    steps = _steps(min(options.seconds, longest), options.dt)
    neurons = options.neurons or _TRACKERS
    network = HamiltonianNetwork(
        Dense(neurons, self_loops=True),
        [0],
        model=NeuronModel(options.speed),
        functional=Functional(Squared(options.weight), mass=options.mass, dissipation=options.dissipation),
        sign=choose("sign policy", options.sign, SIGNS),
        start=Start(generator=torch.Generator().manual_seed(options.seed)),
        device=options.device,
    )
    trace = Trace(max(1, steps // _CURVE_POINTS))
    console = Console(stderr=True)
    begun = time.perf_counter()
    with _watching(console, steps, options.dt, wanted) as watch:
        moments = ((None, torch.full((1, 1), wanted((step + 1) * options.dt))) for step in range(steps))
        outcome = network.run(moments, options.dt, trace, watch)
    took = time.perf_counter() - begun
    heard = [wanted(at + options.dt) for at in trace.times]
    replace_file(
        options.figure,
        plots.tracking(trace, heard, f"{neurons} neurons, speed {options.speed:g}/s: {outcome.status.value}"),
    )
    result = _result(outcome, trace, heard, took) | {"figure": str(options.figure)}
    if options.run is not None:
        tracked = options.signal if options.csv is None else options.csv
        title = f"{neurons} neurons track {tracked}, speed {options.speed:g}/s, sign policy {options.sign}"
        save(options.run, trace, heard, {"title": title, "device": options.device, **result})
    if options.as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    else:
        _tell(result, outcome)


def forecast(options: Stream, path: Path) -> None:
    """Say each next value of a series before it is heard."""
    if options.csv is not None:
        raise InputError(
            "--forecast and --csv must not be given together: each is a file to hear",
            "one of them",
            "leave --csv out to forecast, --forecast to track",
        )
    heard = until(series(path, options.column, options.times), options.seconds)
    hidden = options.neurons or _FORECASTERS
    network = forecaster(hidden, heard.gap, options.seed, options.device)
    steps = len(heard.values) - 1
    trace, progress = Trace(max(1, steps // _CURVE_POINTS)), Progress(heard)
    console = Console(stderr=True)
    begun = time.perf_counter()
    with _drawing(console, heard.gap, float(heard.times[-1] - heard.times[0])) as scope:
        for now, after, gap in moments(heard):
            step = network.step(now, after, gap, record=trace.due)
            trace.add(step)
            progress.look(step)
            if scope is not None:
                scope.note(float(after), float(step.output[0, 0]), network.time)
    outcome = (
        Outcome(Status.ENDED, steps, None, "")
        if network.finite
        else Outcome(Status.DIVERGED, steps, None, "weights moved too fast: try fewer --neurons or another --seed")
    )
    took = time.perf_counter() - begun
    wanted = heard.values[1:][:: trace.every].tolist()
    title = f"{hidden} neurons forecast {path}"
    replace_file(options.figure, plots.tracking(trace, wanted, title))
    result = _result(outcome, trace, wanted, took) | progress.errors() | {"figure": str(options.figure)}
    if options.run is not None:
        save(options.run, trace, wanted, {"title": title, "device": options.device, **result})
    if options.as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    else:
        _tell(result, outcome)


def _steps(seconds: float, dt: float) -> int:
    if not (math.isfinite(seconds) and math.isfinite(dt) and 0 < dt <= seconds):
        raise InputError(
            f"--dt must be positive and at most --seconds, got --dt {dt} and --seconds {seconds}",
            "a step that is shorter than the stream",
            "try --seconds 30 --dt 0.004",
        )
    return round(seconds / dt)


def _result(outcome: Outcome, trace: Trace, wanted: list[float], took: float) -> dict[str, Any]:
    """Errors of the two halves where the signal is known, energies at the end; null for what is infinite."""
    heard = list(zip(trace.outputs[:, 0, 0].tolist(), wanted, strict=True))
    half = len(heard) // 2

    def root_mean(part: list[tuple[float, float]]) -> float | None:
        squares = [(value - target) ** 2 for value, target in part if not math.isnan(target)]
        value = math.sqrt(sum(squares) / len(squares)) if squares else math.nan
        return value if math.isfinite(value) else None

    def last(values: torch.Tensor) -> float | None:
        return float(values[-1, 0]) if math.isfinite(float(values[-1, 0])) else None

    return {
        "status": outcome.status.value,
        "steps": outcome.ticks,
        "steps_per_second": outcome.ticks / took,
        "error_first_half": root_mean(heard[:half]),
        "error_second_half": root_mean(heard[half:]),
        "hamiltonian": last(trace.hamiltonians),
        "lagrangian": last(trace.lagrangians),
        "flips": len(trace.flips),
    }


def _tell(result: Mapping[str, Any], outcome: Outcome) -> None:
    console = Console()
    console.print(Text(str(outcome)))
    told = ("forecast_error", "repeating_error") if "forecast_error" in result else ("flips",)
    for name in ("error_first_half", "error_second_half", *told, "hamiltonian", "lagrangian", "steps_per_second"):
        value = result[name]
        console.print(Text(f"  {name.replace('_', ' '):<20}{'infinite' if value is None else f'{value:.4g}':>10}"))
    console.print(Text(str(result["figure"])), soft_wrap=True)


@contextmanager
def _watching(console: Console, steps: int, dt: float, wanted: Signal) -> Iterator[Callable[[StepResult], None] | None]:
    """A picture that scrolls on a terminal; nothing elsewhere."""
    with _drawing(console, dt, steps * dt) as scope:
        if scope is None:
            yield None
        else:
            yield lambda step: scope.note(wanted(step.time + dt), float(step.output[0, 0]), step.time + dt)


@contextmanager
def _drawing(console: Console, dt: float, seconds: float) -> Iterator["_Scope | None"]:
    if not console.is_terminal:
        yield None
        return
    across = min(12.0, _LONGEST * dt)
    scope = _Scope(max(1, round(across / dt / _COLUMNS)), seconds)
    with Live(get_renderable=scope.picture, console=console, refresh_per_second=12, transient=True):
        yield scope


class _Scope:
    """The last stretch of the signal, drawn in letters: the reference in dots, the output in circles."""

    def __init__(self, every: int, seconds: float) -> None:
        self._every, self._seconds = every, seconds
        self._seen, self._at = 0, 0.0
        self._points: list[tuple[float, float]] = []

    def note(self, target: float, output: float, at: float) -> None:
        """Note a step that ends at a time."""
        self._seen, self._at = self._seen + 1, at
        if self._seen % self._every == 0:
            self._points = [*self._points[-_COLUMNS + 1 :], (target, output)]

    def picture(self) -> RenderableType:
        """The picture of what has been noted."""
        rows = [[" "] * _COLUMNS for _ in range(_ROWS)]
        for place, (target, output) in enumerate(self._points):
            if not math.isnan(target):
                rows[_row(target)][place] = "·"
            rows[_row(output)][place] = "o"
        lines = "\n".join("".join(row) for row in rows)
        caption = f"{self._at:6.1f} s of {self._seconds:g}   · signal   o output neuron"
        return Group(Text(lines, style="cyan"), Text(caption))


def _row(value: float) -> int:
    """From −1 at the bottom to 1 at the top; what lies beyond, or is no number, sticks to the edge."""
    inside = max(-1.0, min(1.0, value)) if math.isfinite(value) else -1.0
    return round((1 - inside) / 2 * (_ROWS - 1))

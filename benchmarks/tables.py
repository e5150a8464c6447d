"""Results as tables: figures, with the goals beside them."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from benchmarks.measure import FAST
from benchmarks.methods import AUTOGRAD, LITERAL, SYNCHRONOUS, WAVEFRONT
from benchmarks.models import CALLS, DEPTH, NETWORKS
from benchmarks.results import Memory, Result, Timing
from benchmarks.timing import Spread

_MS = 1e3
_MIB = 2**20
_RELAXATIONS = (WAVEFRONT, SYNCHRONOUS, LITERAL)


def tables(results: Sequence[Result]) -> list[RenderableType]:
    """One table for each group of which there is anything to show."""
    networks = [result for result in results if result.group == NETWORKS]
    ladder = [result for result in results if result.group in (DEPTH, CALLS)]
    precise = [result for result in results if result.fidelity]
    found: list[RenderableType] = []
    if networks:
        found += [_times(networks), _memories(networks), _works(networks)]
    if ladder:
        found.append(_depths(ladder))
    if precise:
        found.append(_fidelities(precise))
    return found


def _table(title: str, *columns: str, texts: int = 1) -> Table:
    """The first `texts` columns hold words, the others figures."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < texts else "right", no_wrap=True)
    return table


def _times(results: Sequence[Result]) -> Table:
    columns = ("case", "method", "batch", "threads", "rounds", "time ms", "ratio", "goal")
    table = _table("Time of one gradient: median (quartiles), ratio to autograd in the same round", *columns, texts=2)
    for result in results:
        for timing in result.timings:
            goal = result.time_goal if timing.method == WAVEFRONT.name else None
            table.add_row(result.case, timing.method, str(result.batch), *_timed(timing), _goal(goal))
        table.add_section()
    return table


def _timed(timing: Timing) -> tuple[str, ...]:
    ratio = "1" if timing.method == AUTOGRAD.name else _spread(timing.ratio, 1.0)
    return str(timing.threads), str(timing.rounds), _spread(timing.seconds, _MS), ratio


def _memories(results: Sequence[Result]) -> Table:
    columns = ("case", "batch", *(f"{method.name} MiB" for method in FAST), "ratio", "goal")
    table = _table("Peak memory of one gradient, activations and gradients included", *columns)
    for result in results:
        sizes = (f"{memory.peak_bytes / _MIB:.2f}" for memory in result.memory)
        ratio = f"{_of(result.memory, WAVEFRONT.name).ratio:.3f}"
        table.add_row(result.case, str(result.batch), *sizes, ratio, _goal(result.memory_goal))
    return table


def _works(results: Sequence[Result]) -> Table:
    columns = ("case", "layers", *(method.name for method in _RELAXATIONS))
    table = _table("Evaluations / pull-backs per layer", *columns)
    for result in results:
        counts = {w.method: f"{w.evaluations_per_layer:.4g} / {w.pulls_per_layer:.4g}" for w in result.work}
        table.add_row(result.case, str(result.layers), *(counts.get(method.name, "") for method in _RELAXATIONS))
    return table


def _depths(results: Sequence[Result]) -> Table:
    columns = ("layers", "threads", "autograd ms", "wavefront ms", "ratio", "synchronous ms", "ratio", "memory")
    table = _table("Cost against depth, width 128: median (quartiles)", *columns, texts=0)
    for result in results:
        memory = f"{_of(result.memory, WAVEFRONT.name).ratio:.3f}"
        for count in dict.fromkeys(timing.threads for timing in result.timings):
            timed = {timing.method: timing for timing in result.timings if timing.threads == count}
            cells = [_figure(timed[AUTOGRAD.name].seconds.median * _MS)]
            for method in (WAVEFRONT, SYNCHRONOUS):
                cells += _pair(timed.get(method.name))
            table.add_row(str(result.layers), str(count), *cells, memory)
        table.add_section()
    return table


def _pair(timing: Timing | None) -> tuple[str, str]:
    return ("", "") if timing is None else (_figure(timing.seconds.median * _MS), _spread(timing.ratio, 1.0))


def _fidelities(results: Sequence[Result]) -> Table:
    table = _table("Float32 gradients against float64", "case", "method", "worst parameter", "1 - cosine", texts=3)
    for result in results:
        for row in result.fidelity:
            table.add_row(result.case, row.method, row.parameter, f"{row.one_minus_cosine:.2e}")
    return table


def _of(rows: Sequence[Memory], method: str) -> Memory:
    return next(row for row in rows if row.method == method)


def _spread(values: Spread, unit: float) -> str:
    lower, median, upper = (_figure(value * unit) for value in values)
    return median if values.lower == values.upper else f"{median} ({lower}–{upper})"


def _figure(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _goal(goal: float | None) -> str:
    return "" if goal is None else f"≤ {goal:.2f}"

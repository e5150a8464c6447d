"""`python -m benchmarks recurrent`: recurrent layers relaxed in time or looped in C, beside torch's and a cell loop."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeAlias

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import Stopwatch, in_turns, paired_ratios, spread, threads
from worldsheet.core.errors import InputError
from worldsheet.nn import Method, Recurrent
from worldsheet.recurrence.compiled import can_compile
from worldsheet_lab.machine import this_machine

MODULE, EAGER, CHOSEN = "torch's module", "cell loop", "Recurrent"

_INPUTS, _WIDTH = 8, 140
_EAGER_STEPS = 1000  # of the loop over cells, whose time is taken as proportional beyond
_MATRICES = 3e7  # numbers in all Jacobians, beyond which full ones are not tried
_ROWS = 2e6  # hidden numbers over all steps, beyond which diagonals are not tried

Layered: TypeAlias = nn.RNN | nn.GRU | nn.LSTM
LAYERS: dict[str, tuple[Callable[[int, int], Layered], Callable[[int, int], nn.Module]]] = {
    "tanh": (nn.RNN, nn.RNNCell),
    "gru": (nn.GRU, nn.GRUCell),
    "lstm": (nn.LSTM, nn.LSTMCell),
}


class Case(NamedTuple):
    """A layer, and how much it reads.

    Attributes:
        layer: tanh, gru or lstm.
        steps: T.
        size: n.
        batch: B.
    """

    layer: str
    steps: int
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.layer} {self.size}, {self.steps} steps, batch {self.batch}"


def cases(steps: tuple[int, ...], sizes: tuple[int, ...], batches: tuple[int, ...]) -> tuple[Case, ...]:
    """All combinations that torch's module does in less than half a minute or so."""
    found = [Case(layer, t, n, b) for layer in LAYERS for t in steps for b in batches for n in sizes]
    return tuple(case for case in found if case.steps * (20 + case.batch * case.size * (case.size + 60) / 1e4) < 3e6)


CASES = cases((100, 1000, 10_000, 100_000), (4, 8, 16, 32, 64, 128), (1, 8, 64))
QUICK = cases((100, 2000), (8, 32), (1,))


def recurrent(
    rounds: Annotated[int, typer.Option(help="rounds in which the methods take turns")] = 3,
    thread_count: Annotated[int, typer.Option("--threads", help="CPU threads of torch")] = 1,
    quick: Annotated[bool, typer.Option(help="a few cases: a trial of the command")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    seed: Annotated[int, typer.Option(help="weights, inputs and credits")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Measure outputs and gradients of a recurrent layer by every method, in turns, as ratios to torch's module."""
    if rounds < 1 or thread_count < 1:
        raise InputError(
            f"--rounds and --threads must be at least 1, got {rounds} and {thread_count}", "1 or more", "leave them out"
        )
    where = torch.empty(0, device=device).device
    machine, log, rows = this_machine(where, (thread_count,)), Console(stderr=True), []
    log.print(str(machine), highlight=False, soft_wrap=True)
    with threads(thread_count):
        for case in QUICK if quick else CASES:
            log.print(str(case), highlight=False)
            rows.append(measured(case, rounds, where, seed))
    if as_json:
        typer.echo(json.dumps({"machine": asdict(machine), "cases": rows}))
    else:
        console = Console()
        (console if console.is_terminal else Console(width=_WIDTH)).print(table(rows))


def measured(case: Case, rounds: int, device: torch.device, seed: int) -> dict[str, Any]:
    """Seconds of this process for outputs and gradients by every method, ratios to torch's module, and errors.

    On a processor the process's own time is taken, which others on the machine disturb less.
    """
    torch.manual_seed(seed)
    layer = LAYERS[case.layer][0](_INPUTS, case.size).to(device)
    x = torch.randn(case.steps, case.batch, _INPUTS, device=device)
    credit = torch.randn(case.steps, case.batch, case.size, device=device) / case.steps
    ways = contenders(case, layer)
    steps = {name: partial(gradient, way, layer, x, credit) for name, way in ways.items()}
    shared, scale = {}, dict.fromkeys(steps, 1.0)
    if case.steps > _EAGER_STEPS:
        steps[EAGER] = partial(gradient, ways[EAGER], layer, x[:_EAGER_STEPS], credit[:_EAGER_STEPS])
        scale[EAGER] = case.steps / _EAGER_STEPS
    wanted = steps[MODULE]()
    for name, step in steps.items():
        if scale[name] == 1:
            shared[name] = error(step(), wanted)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    watch = Stopwatch(wait=partial(torch.get_device_module(device).synchronize, device), clock=clock)
    taken = in_turns(steps, rounds, watch)
    taken = {name: [seconds * scale[name] for seconds in times] for name, times in taken.items()}
    outcomes = {name: str(way.outcome) for name, way in ways.items() if isinstance(way, Recurrent)}
    return {
        "case": str(case),
        **case._asdict(),
        "seconds": {name: spread(times).median for name, times in taken.items()},
        "ratio": {name: paired_ratios(times, taken[MODULE])._asdict() for name, times in taken.items()},
        "error": shared,
        "outcome": outcomes,
    }


def contenders(case: Case, layer: Layered) -> dict[str, Any]:
    """What is called with inputs and returns outputs and a state; all with the same parameters."""
    found: dict[str, Any] = {MODULE: layer, EAGER: eager(layer, LAYERS[case.layer][1](_INPUTS, case.size))}
    place = next(layer.parameters())
    numbers = case.steps * case.batch * case.size
    ways = [Method.COMPILED] if can_compile(place.dtype, place.device) else []
    ways += [Method.SCAN] if numbers * case.size * (4 if case.layer == "lstm" else 1) < _MATRICES else []
    ways += [Method.DIAGONAL] if numbers < _ROWS else []
    for way in ways:
        found[way.value] = Recurrent(layer, method=way, warm=False)
    found[CHOSEN] = Recurrent(layer, warm=False)
    return found


def eager(layer: Layered, cell: Any) -> Callable[[Tensor], tuple[Tensor, object]]:
    """A loop over a cell of torch's, as anybody writes it."""
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(layer, f"{name}_l0"))

    def run(x: Tensor) -> tuple[Tensor, object]:
        state, outputs = None, []
        for now in x:
            state = cell(now, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs), state

    return run


def gradient(way: Callable[[Tensor], Any], layer: nn.Module, x: Tensor, credit: Tensor) -> tuple[Tensor, ...]:
    """The gradient of a linear function of all outputs, and these."""
    made = way(x)[0]
    return made.detach(), *torch.autograd.grad((made * credit).sum(), list(layer.parameters()))


def error(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """The largest relative deviation of outputs or of a gradient."""
    pairs = zip(found, wanted, strict=True)
    return max(float((one - other).norm() / other.norm().clamp(min=1e-30)) for one, other in pairs)


def table(rows: list[dict[str, Any]]) -> Table:
    """A line a case: the module's milliseconds, and how many times faster the others are."""
    names = [MODULE, EAGER, *(method.value for method in (Method.COMPILED, Method.SCAN, Method.DIAGONAL)), CHOSEN]
    shown = Table(title="outputs and gradients; times faster than torch's module", title_justify="left")
    for heading in ("case", f"{MODULE}, ms", *names[1:], "by", "error"):
        shown.add_column(heading, justify="left" if heading in ("case", "by") else "right")
    for row in rows:
        faster = [f"{1 / row['ratio'][name]['median']:.2f}" if name in row["ratio"] else "–" for name in names[1:]]
        by = row["outcome"][CHOSEN].partition(" over ")[0]
        shown.add_row(row["case"], f"{1e3 * row['seconds'][MODULE]:.1f}", *faster, by, f"{row['error'][CHOSEN]:.0e}")
    return shown

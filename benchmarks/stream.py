"""`python -m benchmarks stream`: what learning in real time costs beside the forward dynamics and beside BPTT."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import ceil
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.memory import peak_bytes
from benchmarks.timing import Spread, Stopwatch, in_turns, paired_ratios, spread, threads
from benchmarks.unrolled import Unrolled
from worldsheet.core.errors import InputError
from worldsheet.streaming import (
    Connectivity,
    Dense,
    Exponential,
    HamiltonianNetwork,
    NeuronModel,
    Start,
    Streams,
    random,
)
from worldsheet_lab.machine import this_machine

GOAL = 3.0
"""Largest cost of a step over that of the forward dynamics: one and a half times two, state and costate."""

WINDOWS = (1, 16, 64)
SELDOM = 4
"""Steps of the neurons for one of the edges in the second network that is measured."""

_INPUTS, _OUTPUTS, _DT, _WIDTH = 8, 8, 0.002, 160
_LONG_ENOUGH = 0.01  # seconds


class Case(NamedTuple):
    """A network and how many streams it hears.

    Attributes:
        neurons: how many.
        degree: parents of each; 0 for all to all.
        streams: at once, with shared weights.
    """

    neurons: int
    degree: int
    streams: int

    def graph(self, seed: int) -> Connectivity:
        """The graph of a case."""
        generator = torch.Generator().manual_seed(seed)
        return random(self.neurons, self.degree, generator) if self.degree else Dense(self.neurons)

    def __str__(self) -> str:
        edges = f"{self.neurons} × {self.degree}" if self.degree else f"{self.neurons}²"
        return f"{edges} edges, {self.streams} stream{'s' * (self.streams > 1)}"


CASES = (
    Case(32, 0, 1),
    Case(128, 0, 1),
    Case(512, 0, 1),
    Case(512, 0, 64),
    Case(1_000, 20, 64),
    Case(1_000, 100, 1),
    Case(10_000, 10, 1),
    Case(10_000, 100, 1),
    Case(10_000, 100, 8),
)
QUICK = (Case(32, 0, 1), Case(512, 0, 8), Case(1_000, 20, 1), Case(1_000, 20, 8))


def stream(
    rounds: Annotated[int, typer.Option(help="rounds in which the methods take turns")] = 15,
    thread_count: Annotated[int, typer.Option("--threads", help="CPU threads of torch")] = 1,
    quick: Annotated[bool, typer.Option(help="few rounds and small networks: a trial of the command")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    seed: Annotated[int, typer.Option(help="graphs, weights, signals")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Measure a step of learning in real time beside the forward dynamics and beside BPTT over 1, 16, 64 steps."""
    if rounds < 1 or thread_count < 1:
        raise InputError(
            f"--rounds and --threads must be at least 1, got {rounds} and {thread_count}", "1 or more", "leave them out"
        )
    where = torch.empty(0, device=device).device
    machine, log = this_machine(where, (thread_count,)), Console(stderr=True)
    log.print(str(machine), highlight=False, soft_wrap=True)
    rows = []
    with threads(thread_count):
        for case in QUICK if quick else CASES:
            log.print(str(case), highlight=False)
            rows.append(measured(case, 3 if quick else rounds, where, seed))
    if as_json:
        typer.echo(json.dumps({"machine": asdict(machine), "cases": rows}))
    else:
        console = Console()
        (console if console.is_terminal else Console(width=_WIDTH)).print(table(rows))


def measured(case: Case, rounds: int, device: torch.device, seed: int) -> dict[str, Any]:
    """Seconds per step of every method, in turns, and the memory that steps hold."""
    steps = contenders(case, device, seed)
    watch = Stopwatch(wait=partial(torch.get_device_module(device).synchronize, device))
    repeats = {name: _repeats(step, watch) for name, (step, _) in steps.items()}
    loops = {name: partial(_repeat, step, repeats[name]) for name, (step, _) in steps.items()}
    taken = in_turns(loops, rounds, watch)
    single = {name: [t / repeats[name] / steps[name][1] for t in times] for name, times in taken.items()}
    network = built(case, device, seed)
    listen = single["forward dynamics"]
    return {
        "case": str(case),
        **case._asdict(),
        "edges": network.graph.edges,
        "seconds": {name: spread(times).median for name, times in single.items()},
        "ratio": {name: paired_ratios(times, listen)._asdict() for name, times in single.items()},
        "goal": GOAL,
        "peak_bytes": [peak_bytes(partial(_repeat, _step(network, case), count), device) for count in (10, 40)],
    }


def contenders(case: Case, device: torch.device, seed: int) -> dict[str, tuple[Callable[[], object], int]]:
    """What is called, and how many steps a call takes."""
    network, deaf = built(case, device, seed), built(case, device, seed)
    input, target = _signal(case, device)
    found: dict[str, tuple[Callable[[], object], int]] = {
        "forward dynamics": (partial(deaf.listen, input, _DT), 1),
        "real time": (_step(network, case), 1),
        f"edges every {SELDOM}": (_steps(built(case, device, seed, SELDOM), case), SELDOM),
    }
    for window in WINDOWS:
        twin = Unrolled(network.graph, network.point.weights, window, case.streams, _INPUTS, _OUTPUTS)
        found[f"BPTT {window}"] = (partial(twin.run, input, target), window)
    return found


def built(case: Case, device: torch.device, seed: int, every: int = 1) -> HamiltonianNetwork:
    """The network of a case: first neurons held at the input, last ones compared."""
    return HamiltonianNetwork(
        case.graph(seed),
        range(case.neurons - _OUTPUTS, case.neurons),
        range(_INPUTS),
        model=NeuronModel(bias=False),
        integrator=Exponential(every),
        streams=Streams(case.streams),
        start=Start(generator=torch.Generator().manual_seed(seed)),
        device=device,
    )


def _step(network: HamiltonianNetwork, case: Case) -> Callable[[], object]:
    return partial(network.step, *_signal(case, network.point.state.device), _DT)


def _steps(network: HamiltonianNetwork, case: Case) -> Callable[[], object]:
    return partial(_repeat, _step(network, case), SELDOM)


def _signal(case: Case, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input, target = (torch.rand(case.streams, size, generator=generator) for size in (_INPUTS, _OUTPUTS))
    return input.to(device), target.to(device)


def _repeats(step: Callable[[], object], watch: Stopwatch) -> int:
    """How often a call must be made to take a time that a clock can tell."""
    step()  # warm up
    return max(1, ceil(_LONG_ENOUGH / watch.seconds(step)))


def _repeat(step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        step()


def table(rows: list[dict[str, Any]]) -> Table:
    """Steps per second, the cost over the forward dynamics, and memory."""
    names = list(rows[0]["seconds"])
    found = Table(title="Steps per second", title_justify="left", title_style="bold")
    found.add_column("case", no_wrap=True)
    for name in (*names, "real time / forward", f"every {SELDOM} / forward", "goal", "memory 40 / 10 steps"):
        found.add_column(name, justify="right")
    for row in rows:
        rates = [f"{1 / row['seconds'][name]:.0f}" for name in names]
        ratios = [Spread(**row["ratio"][name]).median for name in ("real time", f"edges every {SELDOM}")]
        few, many = row["peak_bytes"]
        found.add_row(row["case"], *rates, *(f"{ratio:.2f}" for ratio in ratios), f"≤ {GOAL:.0f}", f"{many / few:.2f}")
    return found

"""`python -m benchmarks control`: problems beside IPOPT, fatrop and crocoddyl, in batches, and over the horizon."""

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.control_cases import Many, One, Others, Tick, many, one, over_the_horizon
from benchmarks.timing import threads
from worldsheet.control import Compiled, Eager, Execution
from worldsheet.core.errors import InputError
from worldsheet_lab.choices import choose
from worldsheet_lab.control.collection import COLLECTION
from worldsheet_lab.control.problems import PROBLEMS
from worldsheet_lab.machine import this_machine

ONE_GOAL = 2.0  # times IPOPT's solve time
BATCH_GOAL = 10.0  # times the problems per second of IPOPT and of fatrop in a loop

_SINGLES = (
    "pendulum",
    "cartpole",
    "quadrotor",
    "race-car",
    "catalyst-mixing",
    "bangbang",
    "vanderpol",
    "rocket",
    "obstacle",
)
_BATCHES = ("pendulum", "cartpole", "quadrotor")


def control(  # noqa: PLR0913, PLR0917  an argument per option
    case: Annotated[list[str] | None, typer.Option(help=f"among {', '.join(_SINGLES)}, or another known one")] = None,
    batch: Annotated[int, typer.Option(help="initial states at once; 0 for none")] = 1024,
    sample: Annotated[int, typer.Option(help="how many of them IPOPT and fatrop solve one by one")] = 32,
    repeats: Annotated[int, typer.Option(help="rounds of single solves, in turns")] = 7,
    tol: Annotated[float, typer.Option(help="largest KKT residual, the same for all")] = 1e-6,
    compiled: Annotated[bool, typer.Option(help="machine code too; seconds to make")] = False,
    eager: Annotated[bool, typer.Option(help="plain torch, which takes minutes for large batches")] = True,
    horizon: Annotated[bool, typer.Option(help="a tick over horizons of 100 to 10 000 stages too")] = False,
    crocoddyl: Annotated[Path | None, typer.Option(help="a Python that has crocoddyl and casadi")] = None,
    quick: Annotated[bool, typer.Option(help="a trial of the command: one case, few rounds, a small batch")] = False,
    seed: Annotated[int, typer.Option(help="initial states of the batch")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Solve known optimal control problems beside CasADi's IPOPT and fatrop; CPU time of one thread."""
    names = list(dict.fromkeys(case or (_SINGLES[:1] if quick else _SINGLES)))
    repeats, batch, sample = (3, min(batch, 64), min(sample, 4)) if quick else (repeats, batch, sample)
    log = Console(stderr=True)
    kinds: dict[str, Callable[[], Execution]] = {}
    if eager:
        kinds["eager"] = Eager
    if compiled:
        kinds["compiled"] = Compiled
    ones, manys = [], []
    with threads(1):
        for name in names:
            choose("case", name, PROBLEMS)
            log.print(f"{name}: one problem", highlight=False)
            others = _others(name, tol)
            executions = {who: make() for who, make in kinds.items()}
            ones.append(one(name, others, executions, repeats, tol, crocoddyl))
            if batch and (name in _BATCHES or case):
                log.print(f"{name}: {batch} problems", highlight=False)
                manys += many(name, others, executions, (batch, sample, seed), tol)
        ticks = over_the_horizon(kinds, repeats) if horizon else []
    machine = this_machine(torch.device("cpu"), (1,))
    if as_json:
        rows = {"single": [asdict(row) for row in ones], "batch": [asdict(row) for row in manys]}
        told = {"machine": asdict(machine), "tol": tol, **rows, "horizon": [asdict(row) for row in ticks]}
        typer.echo(json.dumps(told))
        return
    console = Console() if Console().is_terminal else Console(width=150)
    console.print(_singles_table(ones))
    if manys:
        console.print(_batches_table(manys))
    if ticks:
        console.print(_horizon_table(ticks))
    console.print(str(machine), highlight=False, soft_wrap=True)


def _others(name: str, tol: float) -> Others:
    try:
        ipopt, fatrop, collection = (
            importlib.import_module(f"benchmarks.{module}") for module in ("ipopt", "fatrop", "collection_ipopt")
        )
    except ImportError as error:
        raise InputError("casadi is not installed", "CasADi with IPOPT", "pip install casadi") from error
    model = ipopt.MODELS[name]() if name in ipopt.MODELS else collection.model(COLLECTION[name])
    return Others({"IPOPT": ipopt.Ipopt(model, tol), "fatrop": fatrop.Fatrop(model, tol)}, ipopt.Start)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _singles_table(rows: list[One]) -> Table:
    title = f"One problem, goal ≤ {ONE_GOAL:g} × IPOPT's solve"
    table = _table(
        title, "case", "who", "build s", "solve ms", "best ms", "× IPOPT", "× fatrop", "steps", "cost", "residual"
    )
    for row in rows:
        for share in row.shares:
            times = (f"{share.build:.2f}", f"{1e3 * share.seconds:.1f}", f"{1e3 * share.best:.1f}")
            residual = "" if share.residual is None else f"{share.residual:.0e}"
            found = (f"{share.ratio:.2f}", f"{share.to_fatrop:.2f}", str(share.steps), f"{share.cost:.6f}", residual)
            table.add_row(row.case, share.name, *times, *found)
    return table


def _batches_table(rows: list[Many]) -> Table:
    title = f"A batch, goal ≥ {BATCH_GOAL:g} × IPOPT and fatrop in a loop"
    columns = (
        "who",
        "build s",
        "batch",
        "IPOPT /s",
        "solved",
        "fatrop /s",
        "solved",
        "ours /s",
        "solved",
        "× IPOPT",
        "× fatrop",
        "equal cost",
        "ours lower",
    )
    table = _table(title, "case", *columns)
    for row in rows:
        theirs = (
            f"{row.ipopt_rate:.1f}",
            f"{row.ipopt_solved:.1%}",
            f"{row.fatrop_rate:.1f}",
            f"{row.fatrop_solved:.1%}",
        )
        ratios = (f"{row.ratio:.1f}", f"{row.to_fatrop:.1f}")
        ours = (f"{row.rate:.1f}", f"{row.solved:.1%}", *ratios, f"{row.agreeing:.1%}", f"{row.better:.1%}")
        table.add_row(row.case, row.name, f"{row.build:.0f}", str(row.batch), *theirs, *ours)
    return table


def _horizon_table(rows: list[Tick]) -> Table:
    table = _table("A tick over the horizon, one thread", "who", "stages", "ms a tick", "µs a stage")
    for row in rows:
        table.add_row(row.name, str(row.stages), f"{1e3 * row.seconds:.1f}", f"{1e6 * row.seconds / row.stages:.1f}")
    return table

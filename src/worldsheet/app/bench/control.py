"""`worldsheet bench control`: known problems beside IPOPT, one by one and in batches."""

import importlib
import json
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any, final

import torch
import typer
from rich.console import Console
from rich.table import Table

from worldsheet.app.bench.timing import threads
from worldsheet.app.choices import choose
from worldsheet.app.control.problems import KNOWN, Known
from worldsheet.app.machine import this_machine
from worldsheet.control import Solution, solve
from worldsheet.core.errors import InputError

ONE_GOAL = 2.0  # times IPOPT's solve time
BATCH_GOAL = 10.0  # times the problems per second of IPOPT in a loop

_SINGLES = ("pendulum", "cartpole", "quadrotor", "bangbang", "vanderpol", "rocket", "obstacle")
_BATCHES = ("pendulum", "cartpole", "quadrotor")


@final
@dataclass(frozen=True)
class One:
    """One problem from one initial state; CPU seconds of one thread as medians over rounds taken in turns.

    Attributes:
        case: its name.
        build: what CasADi took to build it.
        ipopt: seconds of a solve.
        ours: seconds of a solve; nothing is built.
        ratio: ours / IPOPT, the median over rounds.
        iterations: IPOPT's.
        ticks: ours.
        ipopt_cost: its objective.
        cost: ours.
        residual: our largest KKT residual.
    """

    case: str
    build: float
    ipopt: float
    ours: float
    ratio: float
    iterations: int
    ticks: int
    ipopt_cost: float
    cost: float
    residual: float


@final
@dataclass(frozen=True)
class Many:
    """Many initial states of one problem.

    Attributes:
        case: its name.
        batch: how many.
        ipopt_rate: problems per second, IPOPT in a loop over the first `sample` of them.
        sample: how many IPOPT solved.
        rate: problems per second, all at once.
        ratio: rate / ipopt_rate.
        ipopt_solved: share that IPOPT solved.
        solved: share that we solved.
        agreeing: share of the sample in which both costs agree to 1e-4, relative.
        better: share of the sample in which ours is lower by more than that.
    """

    case: str
    batch: int
    ipopt_rate: float
    sample: int
    rate: float
    ratio: float
    ipopt_solved: float
    solved: float
    agreeing: float
    better: float


def control(  # noqa: PLR0913, PLR0917  an argument per option
    case: Annotated[list[str] | None, typer.Option(help=f"among {', '.join(_SINGLES)}; all if left out")] = None,
    batch: Annotated[int, typer.Option(help="initial states at once; 0 for none")] = 1024,
    sample: Annotated[int, typer.Option(help="how many of them IPOPT solves one by one")] = 32,
    repeats: Annotated[int, typer.Option(help="rounds of single solves, in turns")] = 9,
    tol: Annotated[float, typer.Option(help="largest KKT residual, the same for both")] = 1e-6,
    quick: Annotated[bool, typer.Option(help="a trial of the command: two cases, few rounds, a small batch")] = False,
    seed: Annotated[int, typer.Option(help="initial states of the batch")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Solve known optimal control problems beside CasADi's IPOPT; CPU time of one thread."""
    names = list(dict.fromkeys(case or (_SINGLES[:1] if quick else _SINGLES)))
    repeats, batch, sample = (3, min(batch, 64), min(sample, 4)) if quick else (repeats, batch, sample)
    log = Console(stderr=True)
    ones, manys = [], []
    with threads(1):
        for name in names:
            known = choose("case", name, KNOWN)
            log.print(f"{name}: one problem", highlight=False)
            solver = _ipopt(name, tol)
            ones.append(_one(name, known, solver, repeats, tol))
            if batch and (name in _BATCHES or case):
                log.print(f"{name}: {batch} problems", highlight=False)
                manys.append(_many(name, known, solver, (batch, sample, seed), tol))
    machine = this_machine(torch.device("cpu"), (1,))
    if as_json:
        rows = {"single": [asdict(row) for row in ones], "batch": [asdict(row) for row in manys]}
        typer.echo(json.dumps({"machine": asdict(machine), "tol": tol, **rows}))
        return
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(_singles_table(ones))
    if manys:
        console.print(_batches_table(manys))
    console.print(str(machine), highlight=False, soft_wrap=True)


def _ipopt(name: str, tol: float) -> Any:
    try:
        module = importlib.import_module("worldsheet.app.bench.ipopt")
    except ImportError as error:
        raise InputError("casadi is not installed", "CasADi with IPOPT", "pip install casadi") from error
    return module.Ipopt(module.MODELS[name](), tol)


def _solved(known: Known, tol: float) -> tuple[Solution, float]:
    problem = known.problem()
    begun = time.process_time()
    solution = solve(problem, initial_guess=known.guess(problem), tol=tol)
    return solution, time.process_time() - begun


def _one(name: str, known: Known, solver: Any, repeats: int, tol: float) -> One:
    """Rounds in turns after one of each to warm up."""
    answer, (solution, _) = solver.solve(known.initial), _solved(known, tol)
    theirs, ours = [], []
    for _ in range(repeats):
        theirs.append(solver.solve(known.initial).seconds)
        ours.append(_solved(known, tol)[1])
    return One(
        case=name,
        build=solver.build_seconds,
        ipopt=statistics.median(theirs),
        ours=statistics.median(ours),
        ratio=statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)),
        iterations=answer.iterations,
        ticks=solution.outcome.ticks,
        ipopt_cost=answer.cost,
        cost=float(solution.cost),
        residual=solution.outcome.residual or 0.0,
    )


def _many(name: str, known: Known, solver: Any, sizes: tuple[int, int, int], tol: float) -> Many:
    batch, sample, seed = sizes
    problem = known.batch(batch, torch.Generator().manual_seed(seed))
    begun = time.process_time()
    solution = solve(problem, initial_guess=known.guess(problem), tol=tol)
    seconds = time.process_time() - begun
    answers = [solver.solve(start) for start in problem.initial_state[:sample].tolist()]
    spent = sum(answer.seconds for answer in answers)
    costs = torch.tensor([answer.cost for answer in answers], dtype=solution.cost.dtype)
    gap = (solution.cost[:sample] - costs) / costs.abs().clamp(min=1e-3)
    rate, ipopt_rate = batch / seconds, len(answers) / spent
    return Many(
        case=name,
        batch=batch,
        ipopt_rate=ipopt_rate,
        sample=len(answers),
        rate=rate,
        ratio=rate / ipopt_rate,
        ipopt_solved=sum(answer.success for answer in answers) / len(answers),
        solved=float(solution.converged.double().mean()),
        agreeing=float((gap.abs() <= 1e-4).double().mean()),
        better=float((gap < -1e-4).double().mean()),
    )


def _singles_table(rows: list[One]) -> Table:
    table = Table(title=f"One problem, goal ≤ {ONE_GOAL:g} × IPOPT", title_justify="left", title_style="bold")
    for number, column in enumerate(
        (
            "case",
            "build ms",
            "IPOPT ms",
            "iterations",
            "ours ms",
            "ticks",
            "ratio",
            "IPOPT cost",
            "our cost",
            "residual",
        )
    ):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        times = (f"{1e3 * row.build:.0f}", f"{1e3 * row.ipopt:.1f}", str(row.iterations), f"{1e3 * row.ours:.1f}")
        costs = (f"{row.ipopt_cost:.6f}", f"{row.cost:.6f}", f"{row.residual:.0e}")
        table.add_row(row.case, *times, str(row.ticks), f"{row.ratio:.2f}", *costs)
    return table


def _batches_table(rows: list[Many]) -> Table:
    table = Table(title=f"A batch, goal ≥ {BATCH_GOAL:g} × IPOPT in a loop", title_justify="left", title_style="bold")
    for number, column in enumerate(
        ("case", "batch", "IPOPT /s", "solved", "ours /s", "solved", "ratio", "equal cost", "ours lower")
    ):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        theirs = (f"{row.ipopt_rate:.1f}", f"{row.ipopt_solved:.1%}")
        ours = (f"{row.rate:.1f}", f"{row.solved:.1%}", f"{row.ratio:.1f}")
        table.add_row(row.case, str(row.batch), *theirs, *ours, f"{row.agreeing:.1%}", f"{row.better:.1%}")
    return table

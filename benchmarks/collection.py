"""`python -m benchmarks collection`: problems of the field from one default guess, beside IPOPT."""

import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Annotated, Any, final

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.timing import threads
from worldsheet.control import solve
from worldsheet.core.errors import InputError
from worldsheet_lab.choices import choose
from worldsheet_lab.control.collection import COLLECTION, Case, violation
from worldsheet_lab.machine import this_machine

COST_GOAL = 1e-6  # relative, above IPOPT's
VIOLATION_GOAL = 1e-8


@final
@dataclass(frozen=True)
class Row:
    """One problem.

    Attributes:
        case: its name.
        status: how our search ended.
        remedy: what its outcome advises.
        ticks: ours.
        seconds: wall-clock time of our solve.
        cost: ours.
        violation: of bounds, path and terminal constraints along the path that our controls lead to.
        ipopt_status: IPOPT's own word.
        iterations: IPOPT's.
        ipopt_seconds: CPU time of its solve; its functions are built before.
        ipopt_cost: what it found.
        reference: what the collection says the problem costs.
        difference: how far our cost lies above IPOPT's, relative; above the reference where IPOPT failed.
        solved: converged, a difference of at most `COST_GOAL` and a violation of at most `VIOLATION_GOAL`.
    """

    case: str
    status: str
    remedy: str
    ticks: int
    seconds: float
    cost: float
    violation: float
    ipopt_status: str
    iterations: int
    ipopt_seconds: float
    ipopt_cost: float
    reference: float
    difference: float
    solved: bool


def collection(
    case: Annotated[list[str] | None, typer.Option(help="a problem of the collection; all if left out")] = None,
    tol: Annotated[float, typer.Option(help="largest KKT residual, the same for both")] = 1e-8,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Solve the collection's optimal control problems from the default guess, beside CasADi's IPOPT; one thread."""
    cases = [choose("case", name, COLLECTION) for name in dict.fromkeys(case or COLLECTION)]
    other, log, rows = _ipopt(), Console(stderr=True), []
    with threads(1):
        for each in cases:
            log.print(f"{each.name}: {each.title}", highlight=False)
            rows.append(measured(each, other.ipopt(each, tol), tol))
    machine = this_machine(torch.device("cpu"), (1,))
    solved = sum(row.solved for row in rows)
    if as_json:
        told = {"machine": asdict(machine), "tol": tol, "rows": [told_of(row) for row in rows], "solved": solved}
        typer.echo(json.dumps(told))
        return
    console = Console() if Console().is_terminal else Console(width=150)
    console.print(_table(rows))
    console.print(str(machine), highlight=False, soft_wrap=True)
    console.print(f"{solved} of {len(rows)} solved", highlight=False)


def told_of(row: Row) -> dict[str, Any]:
    """What `--json` prints of a row: null where a number is none."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value for name, value in asdict(row).items()
    }


def measured(case: Case, theirs: Any, tol: float) -> Row:
    """Our solve of one problem beside an answer of IPOPT."""
    problem = case.problem()
    begun = time.perf_counter()
    solution = solve(problem, tol=tol)
    seconds = time.perf_counter() - begun
    outcome, cost, broken = solution.outcome, float(solution.cost), violation(solution)
    anchor = theirs.cost if theirs.success else case.reference.cost
    difference = (cost - anchor) / max(abs(anchor), COST_GOAL)
    return Row(
        case=case.name,
        status=outcome.status.value,
        remedy=outcome.remedy,
        ticks=outcome.ticks,
        seconds=seconds,
        cost=cost,
        violation=broken,
        ipopt_status=theirs.status,
        iterations=theirs.iterations,
        ipopt_seconds=theirs.seconds,
        ipopt_cost=theirs.cost,
        reference=case.reference.cost,
        difference=difference,
        solved=outcome.converged and difference <= COST_GOAL and broken <= VIOLATION_GOAL,
    )


def _ipopt() -> Any:
    try:
        return importlib.import_module("benchmarks.collection_ipopt")
    except ImportError as error:
        raise InputError("casadi is not installed", "CasADi with IPOPT", "pip install casadi") from error


def _table(rows: Sequence[Row]) -> Table:
    title = f"From the default guess; solved: converged, cost ≤ IPOPT's + {COST_GOAL:g}, violation ≤ {VIOLATION_GOAL:g}"
    table = Table(title=title, title_justify="left", title_style="bold")
    columns = ("case", "ours", "ticks", "s", "cost", "broken", "IPOPT", "its", "s", "cost", "above", "solved")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        ours = (row.status, str(row.ticks), f"{row.seconds:.2f}", f"{row.cost:.8g}", f"{row.violation:.0e}")
        theirs = (row.ipopt_status[:24], str(row.iterations), f"{row.ipopt_seconds:.2f}", f"{row.ipopt_cost:.8g}")
        table.add_row(row.case, *ours, *theirs, f"{row.difference:+.0e}", "yes" if row.solved else "no")
    return table

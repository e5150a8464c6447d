"""What every `run.py` does: measure, record, judge, draw."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import torch
import typer
from rich.console import Console

from experiments.harness.claim import Claim, Verdict
from experiments.harness.record import Findings, Record, Size
from experiments.harness.suite import Ending
from worldsheet.core.errors import InputError, WorldsheetError
from worldsheet_lab.cells import Cells
from worldsheet_lab.errors import DataMissingError
from worldsheet_lab.machine import this_machine
from worldsheet_lab.plots import styled

Measure: TypeAlias = Callable[[Size, Cells], Findings]
"""Finds the figures of a claim at a size."""

Draw: TypeAlias = Callable[[Record, Path], None]
"""Draws a record into a file."""

FIGURE = "figure.png"


def experiment(file: str, measure: Measure, draw: Draw) -> None:
    """Turn a file beside `expected.json` into a command.

    It measures at the size asked for, writes the record and the picture beside the file, and ends with the status of
    an `Ending`. What is already computed is kept in `runs/`, so that a killed run goes on.

    Args:
        file: the script's own `__file__`.
        measure: finds the figures.
        draw: draws them.
    """
    claim = Claim(Path(file).resolve().parent)

    def run(
        size: Annotated[Size, typer.Option(help="small: minutes on a CPU; full: the claim's own size")] = Size.SMALL,
        only_draw: Annotated[bool, typer.Option("--draw", help="draw the record again, measure nothing")] = False,
        device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
        out: Annotated[Path | None, typer.Option(help="folder of record and figure; the script's if left out")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the record as one JSON object on stdout")] = False,
    ) -> None:
        log = Console(stderr=True)
        folder = out or claim.folder
        record = _recorded(claim, size) if only_draw else _measured(claim, measure, size, torch.device(device), log)
        if not only_draw:
            record.save(folder / "results" / f"{size.value}.json")
        with styled():
            draw(record, folder / FIGURE)
        if as_json:
            typer.echo(json.dumps({"claim": claim.name, "size": size.value, "figures": dict(record.figures)}))
        strays = list(claim.strays(record))
        _say(claim, record, strays, log)
        if strays:
            raise typer.Exit(Ending.NOT_AS_EXPECTED.value)

    run.__doc__ = f"{claim.name}: {claim.title}."
    try:
        typer.run(run)
    except WorldsheetError as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        sys.exit((Ending.NO_DATA if isinstance(error, DataMissingError) else Ending.FAILED).value)


def _measured(claim: Claim, measure: Measure, size: Size, device: torch.device, log: Console) -> Record:
    def tell(key: str) -> None:
        log.print(f"{claim.name} {size.value}: {key}", highlight=False, markup=False)

    cells = Cells(Path("runs") / "experiments" / f"{claim.folder.name}-{size.value}.json", device, tell)
    findings = measure(size, cells)
    command = shlex.join(["python", f"experiments/{claim.folder.name}/run.py", "--size", size.value])
    machine = str(this_machine(device, (torch.get_num_threads(),)))
    return Record(findings.figures, findings.tables, size, command, machine, round(cells.seconds, 1))


def _recorded(claim: Claim, size: Size) -> Record:
    record = claim.record(size)
    if record is None:
        raise InputError(
            f"there is no record of size {size.value}", "one that was measured", "leave out --draw to measure it"
        )
    return record


def _say(claim: Claim, record: Record, strays: list[str], log: Console) -> None:
    for name, value in record.figures.items():
        expected = claim.expectations(record.size).get(name)
        beside = "" if expected is None or expected.source is None else f"   source {expected.source:.6g}"
        log.print(f"  {name}: {value:.6g}{beside}", highlight=False, markup=False)
    for stray in strays:
        log.print(f"  {Verdict.CHANGED.value}: {stray}", highlight=False, markup=False)
    log.print(f"{claim.name} {claim.title}: {record.seconds:.1f} s", highlight=False, markup=False)

"""`python -m benchmarks pipeline`: stages in processes beside torch's schedules, one process and averaged copies."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.pipeline_asleep import Length as LatencyRun
from benchmarks.pipeline_asleep import slept
from benchmarks.pipeline_cases import CASES, MICRO_BATCHES
from benchmarks.pipeline_tables import tables
from benchmarks.pipeline_turns import Length, measured
from worldsheet.core.errors import InputError
from worldsheet_lab.choices import choose
from worldsheet_lab.machine import this_machine

ASLEEP = "asleep"
"""The case of stages that sleep."""

_WIDTH = 140
_LONG, _SHORT = Length(3, 0, 3, MICRO_BATCHES), Length(2, 4, 2, (1, 4))
_LONG_NIGHT, _SHORT_NIGHT = LatencyRun(0.03, 160, 2), LatencyRun(0.01, 80, 2)
_NAMES = (*CASES, ASLEEP)


def pipeline(
    case: Annotated[list[str] | None, typer.Option(help=f"among {', '.join(_NAMES)}; all if left out")] = None,
    rounds: Annotated[int, typer.Option(help="turns of the best of each contender; 0 for the default")] = 0,
    stages: Annotated[int, typer.Option(help="how many stages sleep; 0 for the default")] = 0,
    quick: Annotated[bool, typer.Option(help="a trial of the command: the first case, few turns, 4 sleepers")] = False,
    seed: Annotated[int, typer.Option(help="weights, inputs and labels")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Train with two stages in two processes of a thread each, beside torch's schedules and others, in turns.

    A last case has many stages that sleep instead of computing: how busy does
    the order keep them?
    """
    if rounds < 0 or not (stages == 0 or 2 <= stages <= 64):
        raise InputError(
            f"--rounds must be at least 0 and --stages between 2 and 64, got {rounds} and {stages}",
            "0 or more rounds, 2 to 64 stages",
            "leave them out",
        )
    names = list(dict.fromkeys(case or ((next(iter(CASES)), ASLEEP) if quick else _NAMES)))
    for name in names:
        choose("case", name, dict.fromkeys(_NAMES))
    length = _SHORT if quick else _LONG
    length = length._replace(rounds=rounds or length.rounds)
    machine, line = this_machine(torch.device("cpu"), (1,)), _command_line(names, rounds, stages, quick, seed)
    Console(stderr=True).print(f"{machine}\n{line}", highlight=False, soft_wrap=True)
    cases = [measured(CASES[name], length, seed) for name in names if name != ASLEEP]
    asleep = []
    if ASLEEP in names:
        asleep = slept(stages or (4 if quick else 16), _SHORT_NIGHT if quick else _LONG_NIGHT)
    if as_json:
        typer.echo(json.dumps({"command": line, "machine": asdict(machine), "cases": cases, "asleep": asleep}))
        return
    console = Console() if Console().is_terminal else Console(width=_WIDTH)
    for table in tables(cases, asleep):
        console.print(table)
        console.print()
    console.print(f"{machine}\n{line}", highlight=False, soft_wrap=True)


def _command_line(names: Sequence[str], rounds: int, stages: int, quick: bool, seed: int) -> str:
    """The command that repeats this measurement."""
    words = ["python", "-m", "benchmarks", "pipeline", *[word for name in names for word in ("--case", name)]]
    words += ["--rounds", str(rounds)] * bool(rounds) + ["--stages", str(stages)] * bool(stages)
    return shlex.join([*words, *["--quick"] * quick, "--seed", str(seed)])

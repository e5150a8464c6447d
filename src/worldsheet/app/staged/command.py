"""`worldsheet train --stages N`: the same recipe, a process for each stage."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from worldsheet.app.data import load
from worldsheet.app.run_folder import METRICS, RESULT, RunFolder
from worldsheet.app.staged.checkpoints import Checkpoints
from worldsheet.app.staged.launch import NEIGHBOUR_GONE, Where, be_stage, start_here
from worldsheet.app.staged.setup import Setup
from worldsheet.app.staged.worker import CHECKPOINTS, SETUP, plan_of
from worldsheet.core.errors import InputError

TIMEOUT = 60.0
WEIGHTS_FILE = "weights.safetensors"


def begin(setup: Setup, data_dir: Path | None, place: Path | None) -> RunFolder:
    """Measure, plan, and make the run folder.

    Raises:
        DataMissingError: no data.
        RunFolderError: a place that cannot be used.
    """
    recipe = setup.recipe
    plan = plan_of(setup, load(recipe.data, data_dir).subset(recipe.train_size, recipe.test_size))
    folder = RunFolder.create(recipe, place)
    folder.write(SETUP, replace(setup, cuts=plan.cuts).to_json().encode())
    _say(f"training {recipe.data} in {plan.stages} stages, in {folder.path}\n{plan}")
    return folder


def carry_out(folder: RunFolder, data_dir: Path | None, as_json: bool) -> None:
    """Train to the end in processes of this machine, from the newest checkpoint, and show the result.

    Raises:
        Exit: with the status of the first stage that failed.
    """
    setup = Setup.from_json(folder.read(SETUP).decode())
    threads = setup.recipe.threads or 1
    statuses = start_here(folder.path, data_dir, setup.stages, TIMEOUT, threads)
    if any(statuses):
        _tell_failures(statuses, folder)
        raise typer.Exit(130 if 130 in statuses or -signal.SIGINT in statuses else NEIGHBOUR_GONE)
    finish(folder)
    show(folder, as_json)


def take_part(setup: Setup, data_dir: Path | None, place: Path | None) -> None:
    """Be one of the stages that `torchrun` has started; all name the same folder.

    Raises:
        InputError: no folder named, or another number of processes than stages.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if place is None or size != setup.stages:
        raise InputError(
            f"{size} processes of torchrun, --stages {setup.stages}, --run {place}",
            "as many processes as stages, and one folder for all",
            f"torchrun --nproc-per-node {setup.stages} -m worldsheet train --stages {setup.stages} --run runs/mine",
        )
    if rank == 0 and not (place / SETUP).is_file():
        begin(setup, data_dir, place)
    be_stage(rank, Where(place, data_dir, size, "env://", TIMEOUT, setup.recipe.threads or 1))
    if rank == 0:
        finish(RunFolder.open(place))
        show(RunFolder.open(place), as_json=False)


def finish(folder: RunFolder) -> None:
    """Write the whole network's weights, and last the result, which makes the run a finished one."""
    rows = folder.rows()
    epochs = {row["epoch"]: row["test_accuracy"] for row in rows if row["kind"] == "epoch"}
    speeds = [row["samples_per_s"] for row in rows if row["kind"] == "segment"]
    setup = Setup.from_json(folder.read(SETUP).decode())
    result: dict[str, Any] = {
        "status": "finished",
        "stages": setup.stages,
        "cuts": list(setup.cuts),
        "test_accuracy": [epochs[epoch] for epoch in sorted(epochs)],
        "samples_per_s": max(speeds, default=None),
    }
    folder.write_tensors(WEIGHTS_FILE, Checkpoints.weights(folder.path / CHECKPOINTS, setup.cuts))
    folder.write(RESULT, json.dumps(result, indent=2).encode() + b"\n")


def show(folder: RunFolder, as_json: bool) -> None:
    """The result of a finished run, on stdout."""
    result = folder.result()
    if as_json:
        typer.echo(json.dumps({"run": str(folder.path), **result}))
        return
    for epoch, accuracy in enumerate(result["test_accuracy"], start=1):
        typer.echo(f"epoch {epoch}: {accuracy:.2%} of the test images right")
    typer.echo(f"{result['samples_per_s']:.0f} samples/s; {folder.path / METRICS}")


def _tell_failures(statuses: list[int], folder: RunFolder) -> None:
    for stage, status in enumerate(statuses):
        if status < 0:
            _say(f"stage {stage} was ended by signal {-status} ({signal.Signals(-status).name})")
        elif status:
            _say(f"stage {stage} ended with status {status}")
    _say(f"go on with the next command, the result will be the same:\n  worldsheet train --resume {folder.path}")


def _say(text: str) -> None:
    Console(stderr=True).print(Text(text), soft_wrap=True)

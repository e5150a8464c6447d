"""`worldsheet train --stages N`, or under `torchrun`: the same recipe, a process for each stage."""

import json
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any, final

import typer
from rich.console import Console
from rich.text import Text
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.words import plural
from worldsheet_lab import plots_stages
from worldsheet_lab.in_use import in_use
from worldsheet_lab.recipes import Recipe
from worldsheet_lab.run_folder import METRICS, RESULT, Row, RunFolder
from worldsheet_lab.staged.checkpoints import Checkpoints
from worldsheet_lab.staged.display import length_of, watching
from worldsheet_lab.staged.elastic import Torchrun
from worldsheet_lab.staged.launch import (
    NEIGHBOUR_GONE,
    NOT_FINITE,
    PATIENCE,
    Ended,
    WorkerConfig,
    be_stage,
    start_here,
    stay_here,
)
from worldsheet_lab.staged.reports import Reports
from worldsheet_lab.staged.setup import Setup
from worldsheet_lab.staged.texts import Texts
from worldsheet_lab.staged.worker import CHECKPOINTS, SETUP, TIMELINE
from worldsheet_lab.text.recipe import TextRecipe
from worldsheet_lab.text.samples import written

TIMEOUT = 60.0
WEIGHTS_FILE = "weights.safetensors"
PICTURE = "timeline.png"
SAMPLE = "sample.txt"


@final
@dataclass(frozen=True)
class RunOptions:
    """What does not change a run's result.

    Attributes:
        data_dir: where the data set is.
        as_json: whether the result is printed as JSON.
        board: whether stages write for TensorBoard.
    """

    data_dir: Path | None
    as_json: bool
    board: bool


def train_in_stages(setup: Setup, place: Path | None, run_options: RunOptions) -> None:
    """Begin a run, or have a part in one that `torchrun` has begun, and show its result.

    Raises:
        Exit: with the status of the first stage that failed.
        RunFolderError: a place that cannot be used.
    """
    torchrun = Torchrun.around()
    if torchrun is None:
        _carry_out(begin(setup, run_options.data_dir, place), run_options)
    else:
        _take_part(torchrun, lambda: str(_begun(setup, place, run_options).path), run_options)


def go_on(place: Path, run_options: RunOptions) -> None:
    """Train from the newest checkpoint to the end, or show the result of a run that is finished.

    Raises:
        Exit: with the status of the first stage that failed.
    """
    torchrun = Torchrun.around()
    if torchrun is not None:
        _take_part(torchrun, lambda: str(place), run_options)
        return
    folder = RunFolder.open(place)
    if folder.finished:
        _show(folder, run_options)
    else:
        _carry_out(folder, run_options)


def begin(setup: Setup, data_dir: Path | None, place: Path | None) -> RunFolder:
    """Measure, plan, and make the run folder.

    Raises:
        DataMissingError: no data.
        RunFolderError: a place that cannot be used.
    """
    recipe, job = setup.recipe, setup.job(data_dir)
    plan = setup.plan(job)
    folder = RunFolder.create(recipe, place)
    folder.write(SETUP, replace(setup, cuts=plan.cuts).to_json().encode())
    _say(f"training {recipe.data} in {plural(plan.stages, 'stage')}, in {folder.path}\n{plan}")
    if plan.costs and plan.stages > 1:
        again = ",".join(map(str, plan.cuts[1:-1]))
        _say(f"layers were timed; --cuts {again} begins a run of the same weights anywhere")
    return folder


def _begun(setup: Setup, place: Path | None, run_options: RunOptions) -> RunFolder:
    """A new run, or the one that the same command has begun before."""
    if place is None or not (place / SETUP).is_file():
        return begin(setup, run_options.data_dir, place)
    folder = RunFolder.open(place)
    known = Setup.from_json(folder.read(SETUP).decode())
    if (known if setup.cuts else replace(known, cuts=())) != setup:
        raise InputError(
            f"{place} holds a run with other options",
            "the same options, which go on with that run, or a new folder",
            f"name another folder with --run, or go on with --resume {place}",
        )
    return folder


def _carry_out(folder: RunFolder, run_options: RunOptions) -> None:
    setup = _setup_of(folder)
    setup.job(run_options.data_dir).check()
    where = _where(folder, setup, run_options)
    with in_use(folder.path):
        with watching(folder, length_of(setup.recipe), Console(stderr=True)):
            stages = start_here(where)
        if any(stage.status for stage in stages):
            raise typer.Exit(_tell_failures(stages, folder, run_options))
        _finish(folder)
    _show(folder, run_options)


def _take_part(torchrun: Torchrun, make: Any, run_options: RunOptions) -> None:
    folder = RunFolder(Path(torchrun.agree(make, TIMEOUT)))
    first = torchrun.rank == 0
    if not folder.finished:
        setup = _setup_of(folder)
        if torchrun.size != setup.stages:
            raise wrong_size(torchrun.size, setup.stages)
        if torchrun.here:
            stay_here()
        where = replace(_where(folder, setup, run_options), store=torchrun.meeting(TIMEOUT))
        if first:
            with in_use(folder.path):
                with watching(folder, length_of(setup.recipe), Console(stderr=True, force_terminal=False)):
                    be_stage(torchrun.rank, where)  # others write to this terminal too, so it gets lines
                _finish(folder)
        else:
            be_stage(torchrun.rank, where)
    if first:
        _show(folder, run_options)


def wrong_size(processes: int, stages: int) -> InputError:
    """What to do about another number of processes than stages."""
    return InputError(
        f"torchrun must start one process for each of {stages} stages, got {processes}",
        "as many processes as stages",
        f"torchrun --nproc-per-node {stages} -m worldsheet train --engine pipeline",
    )


def _setup_of(folder: RunFolder) -> Setup:
    return Setup.from_json(folder.read(SETUP).decode())


def _where(folder: RunFolder, setup: Setup, run_options: RunOptions) -> WorkerConfig:
    threads = setup.recipe.threads or 1
    how = (run_options.board, setup.recipe.device)
    return WorkerConfig(folder.path, run_options.data_dir, setup.stages, "", TIMEOUT, threads, *how)


def _finish(folder: RunFolder) -> None:
    """Write the whole network's weights, the picture, and last the result, which makes the run a finished one."""
    rows, setup = folder.rows(), _setup_of(folder)
    recipe, segments = setup.recipe, [row for row in rows if row["kind"] == "segment"]
    result: dict[str, Any] = {"status": "finished", "stages": setup.stages, "cuts": list(setup.cuts)}
    result["samples_per_s"] = max((row["samples_per_s"] for row in segments), default=None)
    weights = Checkpoints.weights(folder.path / CHECKPOINTS, setup.stages)
    folder.write_tensors(WEIGHTS_FILE, weights)
    if isinstance(recipe, Recipe):
        result["test_accuracy"] = _by(rows, "epoch", "test_accuracy")
        title = f"{recipe.data}, {recipe.architecture}"
    else:
        result |= _of_text(recipe, rows, weights)
        folder.write(SAMPLE, result["sample"].encode())
        title = f"{recipe.data}, GPT"
    actions = [json.loads(folder.read(f"{TIMELINE}-{stage}.json")) for stage in range(setup.stages)]
    title += f" of {setup.cuts[-1]} layers in {plural(setup.stages, 'stage')}"
    folder.write(PICTURE, plots_stages.timeline(actions, title))
    Reports(folder.path).clear()
    folder.write(RESULT, json.dumps(result, indent=2).encode() + b"\n")


def _by(rows: Sequence[Row], kind: str, part: str) -> list[float]:
    return [row[part] for row in rows if row["kind"] == kind]


def _of_text(recipe: TextRecipe, rows: Sequence[Row], weights: Mapping[str, Tensor]) -> Row:
    return {
        "validation_loss": _by(rows, "validation", "validation_loss"),
        "tokens_per_s": max(_by(rows, "segment", "tokens_per_s"), default=None),
        "sample": written(recipe, Texts(recipe).corpus, weights),
    }


def _show(folder: RunFolder, run_options: RunOptions) -> None:
    """The result of a finished run, on stdout."""
    result = folder.result()
    if run_options.as_json:
        typer.echo(json.dumps({"run": str(folder.path), **result}))
        return
    for epoch, accuracy in enumerate(result.get("test_accuracy", ()), start=1):
        typer.echo(f"epoch {epoch}: {accuracy:.2%} of the test images right")
    if "sample" in result:
        loss = result["validation_loss"][-1]
        typer.echo(f"validation loss {loss:.4f} nats per character, {loss / log(2):.3f} bits")
        typer.echo(f"{result['tokens_per_s']:,.0f} tokens/s")
        typer.echo(result["sample"])
    else:
        typer.echo(f"{result['samples_per_s']:.0f} samples/s")
    for name in (METRICS, PICTURE):
        _say(str(folder.path / name))


def _tell_failures(stages: Sequence[Ended], folder: RunFolder, run_options: RunOptions) -> int:
    """Say how each stage has ended and how to go on: the status of the command."""
    statuses = [stage.status for stage in stages]
    for number, stage in enumerate(stages):
        if stage.silent:
            _say(f"stage {number} did not notice for {PATIENCE:g} s that others had failed, and was ended")
        elif stage.status < 0:
            _say(f"stage {number} was ended by signal {-stage.status} ({signal.Signals(-stage.status).name})")
        elif stage.status:
            _say(f"stage {number} ended with status {stage.status}")
    if NOT_FINITE in statuses:
        _say("to go on from the last checkpoint would meet it again: begin a new run, with a lower --lr for example")
        return NOT_FINITE
    words = ["worldsheet", "train", "--resume", str(folder.path)]
    words += ["--data-dir", str(run_options.data_dir)] if run_options.data_dir else []
    _say(f"go on with the next command, the result will be the same:\n  {shlex.join(words)}")
    return 130 if 130 in statuses or -signal.SIGINT in statuses else NEIGHBOUR_GONE


def _say(text: str) -> None:
    Console(stderr=True).print(Text(text), soft_wrap=True)

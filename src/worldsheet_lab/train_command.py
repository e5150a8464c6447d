"""`worldsheet train`: the same network trained by relaxation and by backprop."""

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from worldsheet.core.errors import InputError
from worldsheet_lab import options
from worldsheet_lab.recipes import FIELDS, recipe_for
from worldsheet_lab.run_folder import Row, RunFolder
from worldsheet_lab.running import CURVES, SHEET, begin, carry_out, pick_up
from worldsheet_lab.staged.command import Manner, go_on, train_in_stages
from worldsheet_lab.staged.engines import cuts_of, stages_of
from worldsheet_lab.staged.setup import Setup
from worldsheet_lab.staged.worker import SETUP
from worldsheet_lab.tables import result_tables
from worldsheet_lab.training import Training

EXAMPLE = "Example: worldsheet train --depth 20 --epochs 5 --run runs/deep"


def train(  # noqa: PLR0913, PLR0917  an argument per option
    data: options.Data = None,
    train_size: options.TrainSize = None,
    test_size: options.TestSize = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    architecture: options.Architecture = None,
    activation: options.Activation = None,
    depth: options.Depth = None,
    width: options.Width = None,
    dropout: options.Dropout = None,
    batch_size: options.BatchSize = None,
    epochs: options.Epochs = None,
    optimizer: options.Optimizer = None,
    lr: options.LearningRate = None,
    rate: options.Rate = None,
    schedule: options.Schedule = None,
    compare_every: options.CompareEvery = None,
    engine: options.Engine = None,
    stages: options.Stages = None,
    cuts: options.Cuts = None,
    packets_per_update: options.PacketsPerUpdate = 8,
    weights: options.Weights = "passive",
    messages: options.Messages = "exact",
    locked: options.Locked = False,
    free_running: options.FreeRunning = False,
    checkpoint_every: options.Segment = 500,
    data_dir: options.DataDir = None,
    run: options.Run = None,
    resume: options.Resume = None,
    tensorboard: options.TensorBoard = False,
    as_json: options.Json = False,
) -> None:
    """Train a network by relaxation, and its twin by backprop on the same batches.

    Without options: the digits that scikit-learn carries, offline, in less
    than a minute. Recipe, weights, metrics and figures go to the run folder.

    Ctrl-C stops between two steps; --resume goes on to the same result.
    """
    given = _given(locals())  # options of the recipe have the names of its fields
    console = Console(stderr=True)
    manner = Manner(data_dir, as_json, tensorboard)
    if resume is not None and (resume / SETUP).is_file():
        _refuse_beside_resume([*given, *(["run"] if run else [])])
        go_on(resume, manner)
        return
    count = stages_of(engine, stages)
    if resume is None:
        recipe = recipe_for(given.pop("data", "digits"), given)
        if count is not None:
            plan = cuts_of(cuts, count, recipe.depth)
            setup = Setup(recipe, count, packets_per_update, weights, locked, checkpoint_every, plan)
            train_in_stages(replace(setup, free_running=free_running, messages=messages), run, manner)
            return
        folder, training = begin(recipe, data_dir, run)
        _say(console, f"training {recipe.data} by relaxation and by autograd, in {folder.path}")
    else:
        _refuse_beside_resume([*given, *(["run"] if run else [])])
        folder = RunFolder.open(resume)
        if folder.finished:
            _say(console, f"the run in {folder.path} is finished; this is its result")
            _show(folder, as_json)
            return
        training = pick_up(folder, data_dir)
        _say(console, f"going on in {folder.path} at epoch {training.position.epoch + 1}")
    _carry_out(training, folder, manner)
    _show(folder, as_json)


def _given(options_by_name: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the recipe that the user named."""
    return {name: options_by_name[name] for name in FIELDS if options_by_name[name] is not None}


def _refuse_beside_resume(others: list[str]) -> None:
    if others:
        raise InputError(
            "--resume together with " + ", ".join(f"--{name.replace('_', '-')}" for name in others),
            "--resume alone, or with --data-dir and --json: the recipe is in the run folder",
            "leave out the other options, or start a new run with them",
        )


def _carry_out(training: Training, folder: RunFolder, manner: Manner) -> None:
    """Train to the end, or to a Ctrl-C, which is told how to resume."""
    console = Console(stderr=True)
    begun = time.perf_counter()
    try:
        carry_out(training, folder, console, board=manner.board)
    except KeyboardInterrupt:
        words = ["worldsheet", "train", "--resume", str(folder.path)]
        words += ["--data-dir", str(manner.data_dir)] if manner.data_dir else []
        _say(console, f"interrupted; go on with the next command, the result will be the same:\n  {shlex.join(words)}")
        if manner.as_json:
            _print_json({"status": "interrupted", "run": str(folder.path)})
        raise typer.Exit(130) from None
    _say(console, f"finished in {time.perf_counter() - begun:.1f} s")


def _show(folder: RunFolder, as_json: bool) -> None:
    """The result on stdout, as tables or as JSON."""
    result = folder.result()
    if as_json:
        _print_json({"run": str(folder.path), **result})
        return
    console = Console()
    console.print(result_tables(result))
    for name in (CURVES, SHEET):
        _say(console, f"{folder.path / name}")


def _print_json(value: Row) -> None:
    typer.echo(json.dumps(value, allow_nan=False))


def _say(console: Console, text: str) -> None:
    """Plain text, unbroken: a path must stay one word."""
    console.print(Text(text), soft_wrap=True)

"""`worldsheet train`: the same network trained by relaxation and by backprop."""

import json
import shlex
import time
from collections.abc import Set
from typing import Any, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from worldsheet.core.errors import InputError
from worldsheet_lab.commands.train import Train
from worldsheet_lab.in_use import in_use
from worldsheet_lab.recipes import FIELDS, Recipe, recipe_for
from worldsheet_lab.run_folder import Row, RunFolder
from worldsheet_lab.running import CURVES, SHEET, begin, carry_out, pick_up
from worldsheet_lab.staged.command import RunOptions, go_on, train_in_stages
from worldsheet_lab.staged.elastic import Torchrun
from worldsheet_lab.staged.engines import PIPELINE, cuts_of, stages_of
from worldsheet_lab.staged.setup import Setup
from worldsheet_lab.staged.worker import SETUP
from worldsheet_lab.tables import result_tables
from worldsheet_lab.text.asked import refuse_options_of_texts, text_recipe
from worldsheet_lab.text.recipe import TextRecipe
from worldsheet_lab.training import Training


def train(options: Train) -> None:
    """Carry the command out."""
    _refuse_dynamics(options.dynamics)
    run_options = RunOptions(options.data_dir, options.as_json, options.tensorboard)
    if options.resume is not None:
        _refuse_beside_resume(options.named - _BESIDE_RESUME)
        if (options.resume / SETUP).is_file():
            go_on(options.resume, run_options)
        else:
            _go_on(RunFolder.open(options.resume), run_options)
        return
    if options.model is not None or options.text is not None:
        count = stages_of(options.engine or PIPELINE, _stages_of_text(options))
        assert count is not None  # of a pipeline
        train_in_stages(_setup(options, text_recipe(options), count, _OF_TEXTS), options.run, run_options)
        return
    refuse_options_of_texts(options.named)
    given = _given(options)
    count = stages_of(options.engine, options.stages)
    recipe = recipe_for(given.pop("data", "digits"), given)
    if count is not None:
        train_in_stages(_setup(options, recipe, count, _OF_IMAGES), options.run, run_options)
        return
    folder, training = begin(recipe, options.data_dir, options.run)
    with in_use(folder.path):
        _say(Console(stderr=True), f"training {recipe.data} by relaxation and by autograd, in {folder.path}")
        _carry_out(training, folder, run_options)
    _show(folder, options.as_json)


def _setup(options: Train, recipe: Recipe | TextRecipe, stages: int, usual: "_Usual") -> Setup:
    return Setup(
        recipe,
        stages,
        options.packets_per_update,
        options.weights or usual.weights,
        options.locked,
        usual.segment if options.checkpoint_every is None else options.checkpoint_every,
        cuts_of(options.cuts, stages, recipe.depth),
        options.free_running,
        options.messages,
    )


def _stages_of_text(options: Train) -> int | None:
    """One, where neither the user nor torchrun says how many."""
    return 1 if options.stages is None and Torchrun.around() is None else options.stages


class _Usual(NamedTuple):
    """What is meant where nothing is said.

    Attributes:
        weights: the rule for late credits.
        segment: updates between checkpoints.
    """

    weights: str
    segment: int


_OF_IMAGES, _OF_TEXTS = _Usual("passive", 500), _Usual("bounded", 100)


def _go_on(folder: RunFolder, run_options: RunOptions) -> None:
    console = Console(stderr=True)
    if folder.finished:
        _say(console, f"the run in {folder.path} is finished; this is its result")
    else:
        with in_use(folder.path):
            training = pick_up(folder, run_options.data_dir)
            _say(console, f"going on in {folder.path} at epoch {training.position.epoch + 1}")
            _carry_out(training, folder, run_options)
    _show(folder, run_options.as_json)


def _refuse_dynamics(name: str | None) -> None:
    if name is not None:
        raise InputError(
            f"train has no --dynamics, got {name}: it trains by dyadic relaxation and by backprop",
            "--rate and --schedule here; --dynamics in compare",
            f"worldsheet compare --dynamics {name} --seeds 1",
        )


def _given(options: Train) -> dict[str, Any]:
    """The fields of the recipe that the user named."""
    return {name: value for name in FIELDS if (value := getattr(options, name)) is not None}


_BESIDE_RESUME = {"resume", "data_dir", "as_json", "tensorboard"}


def _refuse_beside_resume(others: Set[str]) -> None:
    if others:
        raise InputError(
            "--resume cannot be used together with "
            + ", ".join(f"--{name.replace('_', '-')}" for name in sorted(others)),
            "--resume alone, or with --data-dir and --json: the recipe is in the run folder",
            "leave out the other options, or start a new run with them",
        )


def _carry_out(training: Training, folder: RunFolder, run_options: RunOptions) -> None:
    """Train to the end, or to a Ctrl-C, which is told how to resume."""
    console = Console(stderr=True)
    begun = time.perf_counter()
    try:
        carry_out(training, folder, console, board=run_options.board)
    except KeyboardInterrupt:
        words = ["worldsheet", "train", "--resume", str(folder.path)]
        words += ["--data-dir", str(run_options.data_dir)] if run_options.data_dir else []
        _say(console, f"interrupted; go on with the next command, the result will be the same:\n  {shlex.join(words)}")
        if run_options.as_json:
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

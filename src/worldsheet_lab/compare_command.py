"""`worldsheet compare`: learning dynamics side by side, over several seeds."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any, final

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from worldsheet.core.errors import InputError
from worldsheet_lab import plots
from worldsheet_lab.cells import Cells
from worldsheet_lab.commands.compare import Compare
from worldsheet_lab.contest.cell import trained
from worldsheet_lab.contest.contest import RuleComparison, comparison_for
from worldsheet_lab.contest.report import result_of, result_tables
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.in_use import in_use
from worldsheet_lab.recipes import FIELDS
from worldsheet_lab.run_folder import RESULT, Row, RunFolder
from worldsheet_lab.running import threads

PICTURE = "compare.png"
CELLS = "cells.json"
SHEET = "worldsheet-{}.safetensors"
"""The recorded relaxation of a dynamics, by its name, after training from the first seed."""


def compare(options: Compare) -> None:
    """Carry the command out."""
    given = vars(options)
    console = Console(stderr=True)
    if options.resume is None:
        changes = {name: given[name] for name in FIELDS if given.get(name) is not None and name != "data"}
        contest = comparison_for(options.data or "digits", options.dynamics, options.seeds, options.ticks, changes)
        images = load(contest.recipe.data, options.data_dir).subset(contest.recipe.train_size, contest.recipe.test_size)
        folder = RunFolder.create(contest.recipe, options.run)
        contest.save(folder)
    else:
        _refuse_beside_resume(given)
        folder = RunFolder.open(options.resume)
        contest = RuleComparison.load(folder)
        images = load(contest.recipe.data, options.data_dir).subset(contest.recipe.train_size, contest.recipe.test_size)
    if not folder.finished:
        _say(console, f"{', '.join(contest.names)} on {contest.recipe.data}, in {folder.path}")
        try:
            with in_use(folder.path):
                _carry_out(contest, folder, images, console)
        except KeyboardInterrupt:
            words = ["worldsheet", "compare", "--resume", str(folder.path)]
            words += ["--data-dir", str(options.data_dir)] if options.data_dir else []
            _say(console, f"interrupted; go on with\n  {shlex.join(words)}")
            raise typer.Exit(130) from None
    _show(folder, console, options.as_json)


def _carry_out(contest: RuleComparison, folder: RunFolder, images: DataSet, console: Console) -> None:
    """Every cell that is not known yet, then the result and its picture."""
    cells = Cells(folder.path / CELLS, torch.device(contest.recipe.device), lambda key: None)
    found: dict[tuple[str, int], Row] = {}
    per_epoch = ceil(len(images.train_labels) / contest.recipe.batch_size)
    with threads(contest.recipe.threads), _progress(contest, per_epoch, console) as begin:
        for name, seed in contest.cells:
            begun = begin(f"{name}, seed {seed}")
            recipe, rival = contest.recipe_of(seed), contest.rival(name)
            keep = partial(folder.write_tensors, SHEET.format(name)) if seed == contest.recipe.seed else None
            found[name, seed] = cells.get(f"{name} seed={seed}", partial(trained, recipe, images, rival, begun, keep))
    result = result_of(contest, found)
    folder.write(PICTURE, plots.rivals(result["dynamics"], f"{contest.recipe.data}, {contest.recipe.depth} sites"))
    folder.write(RESULT, json.dumps(result, indent=2, allow_nan=False).encode() + b"\n")


@contextmanager
def _progress(
    contest: RuleComparison, per_epoch: int, console: Console
) -> Iterator[Callable[[str], Callable[[], None]]]:
    """Told the name of each cell, gives what is to be called after each of its steps."""
    if not console.is_terminal:
        yield _Log(contest.recipe.epochs * per_epoch, partial(_say, console)).begin
        return
    columns = TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        overall = bars.add_task("networks", total=len(contest.cells), completed=-1)
        steps = bars.add_task("", total=contest.recipe.epochs * per_epoch)

        def begin(name: str) -> Callable[[], None]:
            bars.advance(overall)
            bars.reset(steps, description=name)
            return lambda: bars.advance(steps)

        yield begin


_SILENCE = 20.0
"""Seconds after which a log is told how far a network is."""


@final
class _Log:
    """A line a network, and one whenever a log has heard nothing for a while.

    Args:
        steps: of each network.
        say: writes a line.
        clock: seconds.
    """

    def __init__(self, steps: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._say, self._clock = steps, say, clock
        self._name, self._done, self._last = "", 0, 0.0

    def begin(self, name: str) -> Callable[[], None]:
        """Told the name of a network, gives what is to be called after each of its steps."""
        self._name, self._done, self._last = name, 0, self._clock()
        self._say(name)
        return self._step

    def _step(self) -> None:
        self._done += 1
        if self._clock() - self._last >= _SILENCE:
            self._last = self._clock()
            self._say(f"  {self._name}: step {self._done} of {self._steps}")


def _refuse_beside_resume(given: Mapping[str, Any]) -> None:
    kept = {"resume", "data_dir", "as_json", "dynamics", "seeds"}
    others = [name for name, value in given.items() if value is not None and name not in kept]
    others += [
        name for name, default in (("dynamics", Compare.dynamics), ("seeds", Compare.seeds)) if given[name] != default
    ]
    if others:
        raise InputError(
            "--resume cannot be used together with " + ", ".join(f"--{name.replace('_', '-')}" for name in others),
            "--resume alone, or with --data-dir and --json: the plan is in the run folder",
            "leave out the other options, or start a new comparison with them",
        )


def _show(folder: RunFolder, console: Console, as_json: bool) -> None:
    result = folder.result()
    if as_json:
        typer.echo(json.dumps({"run": str(folder.path), **result}, allow_nan=False))
        return
    Console().print(result_tables(result))
    _say(console, f"{folder.path / PICTURE}")


def _say(console: Console, text: str) -> None:
    """Plain text, unbroken: a path must stay one word."""
    console.print(Text(text), soft_wrap=True)

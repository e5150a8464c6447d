"""A training run from a recipe to a finished folder, and picked up where it stopped."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from worldsheet_lab import plots
from worldsheet_lab.data import load
from worldsheet_lab.display import progress_of
from worldsheet_lab.interrupt import Interrupt
from worldsheet_lab.recipes import Recipe
from worldsheet_lab.results import result_of
from worldsheet_lab.run_folder import RESULT, RunFolder
from worldsheet_lab.tensorboard import boards_of
from worldsheet_lab.training import Training

CURVES = "learning.png"
SHEET = "worldsheet.png"
RECORD = "worldsheet.safetensors"


def begin(recipe: Recipe, data_dir: Path | None, place: Path | None) -> tuple[RunFolder, Training]:
    """Load the data, then make the folder: a refusal leaves no empty folder behind.

    Raises:
        DataMissingError: no data.
        InputError: a recipe that does not fit the data.
        RunFolderError: a place that cannot be used.
    """
    data = load(recipe.data, data_dir).subset(recipe.train_size, recipe.test_size)
    folder = RunFolder.create(recipe, place)
    return folder, Training(recipe, data, folder)


def pick_up(folder: RunFolder, data_dir: Path | None) -> Training:
    """The training of a folder, at its checkpoint.

    Raises:
        RunFolderError: a folder that cannot be resumed.
        DataMissingError: no data.
    """
    recipe = folder.recipe()
    data = load(recipe.data, data_dir).subset(recipe.train_size, recipe.test_size)
    training = Training(recipe, data, folder)
    training.restore()
    return training


def carry_out(training: Training, folder: RunFolder, console: Console, *, board: bool = False) -> None:
    """Train to the end, showing progress, and write what the run has shown.

    Args:
        training: where it stands.
        folder: the run's.
        console: where progress goes.
        board: whether to write for TensorBoard too.

    Raises:
        KeyboardInterrupt: Ctrl-C; the folder can be resumed.
    """
    with threads(training.recipe.threads):
        boards = boards_of(board, folder.path, training)
        with progress_of(training, console) as display, boards as watchers, Interrupt() as interrupt:
            training.run((display, *watchers, interrupt))
        _finish(training, folder)


def _finish(training: Training, folder: RunFolder) -> None:
    """Write weights, record and figures, and last the result, which makes the run a finished one."""
    recipe, rows = training.recipe, folder.rows()
    result = result_of(training, rows)
    folder.write_tensors("weights.safetensors", training.relaxed.model.state_dict())
    folder.write_tensors("weights-autograd.safetensors", training.autograd.model.state_dict())
    folder.write_tensors(RECORD, training.sheet())
    network = f"{recipe.data}, {recipe.architecture} of {result['sites']} sites"
    epochs = [row for row in rows if row["kind"] == "epoch"]
    folder.write(CURVES, plots.learning_curves(epochs, f"{network}: trained twice from the same start"))
    depth = training.relaxed.chain.topology.depth
    title = f"{network}: one relaxation after training, rate {recipe.rate:g}, every site at every tick"
    folder.write(SHEET, plots.worldsheet(folder.read_tensors(RECORD), depth, title))
    folder.write(RESULT, json.dumps(result, indent=2, allow_nan=False).encode() + b"\n")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for a while; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

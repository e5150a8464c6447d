from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from run_folders import make_all
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.recipes import Recipe, recipe_for
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.training import Training

TINY = {"train_size": 200, "test_size": 100, "depth": 4, "width": 24, "batch_size": 32, "epochs": 2, "compare_every": 3}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load("digits")


@pytest.fixture
def tiny() -> Recipe:
    return recipe_for("digits", TINY)


@pytest.fixture
def options() -> list[str]:
    """The tiny recipe as options of the command line."""
    return [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def start(tmp_path: Path, digits: DataSet, tiny: Recipe) -> Callable[..., Training]:
    """A new training in its own folder, of the tiny recipe with some fields changed."""

    def started(name: str = "run", **changes: Any) -> Training:
        recipe = recipe_for("digits", {**TINY, **changes})
        return Training(
            recipe, digits.subset(recipe.train_size, recipe.test_size), RunFolder.create(recipe, tmp_path / name)
        )

    return started


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run folder of every kind by its name."""
    return make_all(tmp_path_factory.mktemp("runs"))

"""Training in stages: one process's result, from one to many processes, killed and torn in between."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import worldsheet
from worldsheet.app.cli import app
from worldsheet.app.data import load
from worldsheet.app.recipes import recipe_for
from worldsheet.app.staged.setup import Setup
from worldsheet.app.streams import order
from worldsheet.pipeline import Locked, Pipeline, Plan

OPTIONS = ["--depth", "5", "--width", "24", "--dropout", "0", "--train-size", "640", "--test-size", "200"]
OPTIONS += ["--batch-size", "32", "--epochs", "4", "--stages", "2", "--packets-per-update", "4"]
OPTIONS += ["--checkpoint-every", "5"]


def command(*words: str) -> subprocess.Popen[str]:
    source = str(Path(worldsheet.__file__).resolve().parents[1])
    where = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "worldsheet", "train", *words]
    return subprocess.Popen(line, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=250)
    return process.returncode, output


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_run_whose_stage_was_killed_and_whose_checkpoint_was_torn_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, output = finish(command(*OPTIONS, "--run", str(whole)))
    assert code == 0, output

    process = command(*OPTIONS, "--run", str(broken))
    while not list(broken.glob("checkpoints/00000[4-9]")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    stages = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
    stages[-1].send_signal(signal.SIGKILL)
    code, output = finish(process)
    assert code == 3, output
    assert "was ended by signal 9 (SIGKILL)" in output
    assert "is gone or silent at packet" in output

    newest = max(broken.glob("checkpoints/[0-9]*[0-9]"))
    part = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    code, output = finish(command("--resume", str(broken)))
    assert code == 0, output
    assert same(weights_of(broken), weights_of(whole))


@pytest.mark.slow
def test_locked_stages_are_one_process(tmp_path: Path) -> None:
    code, output = finish(command(*OPTIONS, "--epochs", "1", "--locked", "--run", str(tmp_path / "run"), "--json"))
    assert code == 0, output
    result = json.loads(output.splitlines()[-1])
    changes = {"depth": 5, "width": 24, "dropout": 0.0, "train_size": 640, "batch_size": 32}
    recipe = recipe_for("digits", changes)
    data = load("digits").subset(640, 200)
    chain = Setup(recipe, 2).chain(data)
    make = partial(torch.optim.Adam, lr=recipe.lr)
    pipeline = Pipeline(chain, Plan(tuple(result["cuts"])), optimizer=make, order=Locked(4))
    images = data.train_images.float()
    for batch in torch.split(order(recipe.seed, 0, 640), 32):
        pipeline.train([(images[i], data.train_labels[i]) for i in batch.tensor_split(4)])
    mine = {name: tensor.detach() for name, tensor in chain.module.state_dict().items()}  # type: ignore[union-attr]
    assert same(weights_of(tmp_path / "run"), mine)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stages", "6", "--depth", "5"], "1 or more stages, no more than there are layers"),
        (["--stages", "2", "--weights", "foretold"], "passive, predicted, stashed, current"),
        (["--stages", "2", "--packets-per-update", "0"], "packets"),
    ],
)
def test_what_cannot_be_staged_is_refused(words: list[str], told: str) -> None:
    shown = CliRunner().invoke(app, ["train", *words])
    assert shown.exit_code == 2
    assert told in " ".join(shown.output.split())

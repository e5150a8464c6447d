"""Training in stages: one process's result, from one to many processes, killed and torn in between."""

import json
import os
import re
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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from typer.testing import CliRunner

import worldsheet
import worldsheet as ws
from worldsheet.pipeline import Locked, Pipeline, Plan
from worldsheet_lab.cli import app
from worldsheet_lab.data import load
from worldsheet_lab.recipes import recipe_for
from worldsheet_lab.streams import order

OPTIONS = ["--depth", "5", "--width", "24", "--dropout", "0", "--train-size", "640", "--test-size", "200"]
OPTIONS += ["--batch-size", "32", "--epochs", "4", "--stages", "2", "--packets-per-update", "4"]
OPTIONS += ["--checkpoint-every", "5", "--cuts", "3"]


def command(*words: str) -> subprocess.Popen[str]:
    source = str(Path(worldsheet.__file__).resolve().parents[1])
    where = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "worldsheet", "train", *words]
    return subprocess.Popen(line, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("stages") / "whole"
    code, output = finish(command(*OPTIONS, "--tensorboard", "--run", str(folder)))
    assert code == 0, output
    return folder


def start_and_wait(folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run that has written some checkpoints, and its stages."""
    process = command(*OPTIONS, "--run", str(folder))
    while not list(folder.glob("checkpoints/00000[4-9]")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    children = psutil.Process(process.pid).children()
    return process, [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_stage_was_killed_and_whose_checkpoint_was_torn_ends_with_the_same_bits(
    tmp_path: Path, whole: Path
) -> None:
    broken = tmp_path / "broken"
    process, stages = start_and_wait(broken)
    for stage in stages:
        listening = {link.laddr.ip for link in stage.net_connections("inet") if link.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    stages[-1].send_signal(signal.SIGKILL)
    code, output = finish(process)
    assert code == 3, output
    assert "was ended by signal 9 (SIGKILL)" in output
    assert re.search("is gone or silent (at packet|where all write a checkpoint)", output), output

    newest = max(broken.glob("checkpoints/[0-9]*[0-9]"))
    part = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    code, output = finish(command("--resume", str(broken)))
    assert code == 0, output
    assert f"checkpoint {newest} is not whole at every stage: trying the one before" in output
    assert same(weights_of(broken), weights_of(whole))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("everyone", [True, False], ids=["of the terminal", "of one process"])
def test_ctrl_c_leaves_a_checkpoint_that_a_run_goes_on_from(tmp_path: Path, whole: Path, everyone: bool) -> None:
    folder = tmp_path / "run"
    process, stages = start_and_wait(folder)
    for stage in stages if everyone else []:
        stage.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert f"worldsheet train --resume {folder}" in output
    assert "Traceback" not in output
    code, output = finish(command("--resume", str(folder)))
    assert code == 0, output
    assert same(weights_of(folder), weights_of(whole))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stages_that_run_freely_learn_as_well(tmp_path: Path, whole: Path) -> None:
    code, output = finish(command(*OPTIONS, "--free-running", "--run", str(tmp_path / "run"), "--json"))
    assert code == 0, output
    ordered = json.loads((whole / "result.json").read_text())["test_accuracy"][-1]
    assert json.loads(output.splitlines()[-1])["test_accuracy"][-1] == pytest.approx(ordered, abs=0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_in_stages_leaves_a_timeline_and_boards(whole: Path) -> None:
    assert (whole / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert not (whole / "live").exists()
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    board = EventAccumulator(str(whole / "tensorboard" / "stage 1"))
    board.Reload()
    scores = [row["test_accuracy"] for row in rows if row["kind"] == "epoch"]
    assert [event.value for event in board.Scalars("test/accuracy")] == pytest.approx(scores)
    packets = [event.step for event in board.Scalars("stage/busy")]
    assert packets == sorted(packets)
    assert packets[-1] == 4 * 20 * 4  # epochs, batches, packets


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_locked_stages_are_one_process(tmp_path: Path) -> None:
    code, output = finish(command(*OPTIONS, "--epochs", "1", "--locked", "--run", str(tmp_path / "run"), "--json"))
    assert code == 0, output
    result = json.loads(output.splitlines()[-1])
    changes = {"depth": 5, "width": 24, "dropout": 0.0, "train_size": 640, "batch_size": 32}
    recipe = recipe_for("digits", changes)
    data = load("digits").subset(640, 200)
    chain = ws.Chain(recipe.model(data), nn.CrossEntropyLoss())
    make = partial(torch.optim.Adam, lr=recipe.lr)
    pipeline = Pipeline(chain, Plan(tuple(result["cuts"])), optimizer=make, schedule=Locked(4))
    images = data.train_images.float()
    for batch in torch.split(order(recipe.seed, 0, 640), 32):
        pipeline.train([(images[i], data.train_labels[i]) for i in batch.tensor_split(4)])
    assert isinstance(chain.module, nn.Module)
    mine = {name: tensor.detach() for name, tensor in chain.module.state_dict().items()}
    assert same(weights_of(tmp_path / "run"), mine)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stages", "6", "--depth", "5"], "--stages must be between 1 and --depth 5, got 6"),
        (["--stages", "2", "--weights", "foretold"], "passive, predicted, stashed, current"),
        (["--stages", "2", "--messages", "int8"], "exact, bfloat16, float16"),
        (["--stages", "2", "--packets-per-update", "0"], "--packets-per-update must be between 1 and the batch size"),
        (["--stages", "2", "--free-running", "--locked"], "--free-running and --locked cannot be used together"),
    ],
)
def test_what_cannot_be_staged_is_refused(words: list[str], told: str) -> None:
    shown = CliRunner().invoke(app, ["train", *words])
    assert shown.exit_code == 2
    assert told in " ".join(shown.output.split())

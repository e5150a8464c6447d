"""`worldsheet train` as a user meets it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from worldsheet.version import __version__
from worldsheet_lab import plots
from worldsheet_lab.cli import app
from worldsheet_lab.interrupt import Interrupt
from worldsheet_lab.recipes import FIELDS
from worldsheet_lab.training import Training

FILES = [
    ".in-use",
    *("checkpoint.pt", "config.json", "learning.png", "metrics.jsonl", "result.json"),
    *("weights-autograd.safetensors", "weights.safetensors", "worldsheet.png", "worldsheet.safetensors"),
]


def worldsheet(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worldsheet", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_options_are_frozen() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    assert sorted(group.commands) == ["compare", "control", "report", "stream", "train"]
    params = group.commands["train"].params
    assert [each.name for each in params if getattr(each, "hidden", False)] == ["dynamics"]  # which names compare
    names = {option for each in params for option in each.opts if each.name != "dynamics"}
    assert names == {
        *("--data", "--train-size", "--test-size", "--seed", "--device", "--dtype", "--threads"),
        *("--architecture", "--activation", "--depth", "--width", "--dropout"),
        *("--batch-size", "--epochs", "--optimizer", "--lr", "--rate", "--schedule", "--compare-every"),
        *("--engine", "--stages", "--cuts", "--packets-per-update", "--weights", "--locked", "--free-running"),
        *("--messages", "--checkpoint-every"),
        *("--model", "--text", "--blocks", "--heads", "--context", "--updates", "--warm-up", "--prompt", "--sample"),
        *("--data-dir", "--run", "--run-dir", "--resume", "--tensorboard", "--json"),
    }
    assert set(FIELDS) <= {parameter.name for parameter in group.commands["train"].params}


def test_help_has_an_example_that_runs(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = worldsheet("train", "--help").stdout
    example = next(line for line in text.splitlines() if "Example:" in line).partition("Example: worldsheet ")[2]
    monkeypatch.chdir(tmp_path)
    done = worldsheet(*example.split(), "--epochs", 1, "--train-size", 64, "--width", 8)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "runs" / "deep" / "result.json").is_file()


def test_version() -> None:
    assert worldsheet("--version").stdout == f"worldsheet {__version__}\n"


def test_a_run_leaves_its_files_and_prints_tables(tmp_path: Path, options: list[str]) -> None:
    done = worldsheet("train", *options, "--run", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    assert "4 sites" in done.stdout
    assert "2 epochs" in done.stdout
    assert "final weights " in done.stdout
    assert "3.linear.bias" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line)
    assert done.stderr.count("epoch ") == 2
    assert "relaxation" not in done.stdout.splitlines()[0]
    relaxed = load_file(tmp_path / "run" / "weights.safetensors")
    autograd = load_file(tmp_path / "run" / "weights-autograd.safetensors")
    for name, weight in relaxed.items():
        torch.testing.assert_close(weight, autograd[name], rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["width"] == 24
    assert config["worldsheet"] == __version__
    assert set(config) == {"worldsheet", "torch", "command", "machine", "started", "recipe"}


def test_json_is_one_object_with_these_members(tmp_path: Path, options: list[str]) -> None:
    done = worldsheet("train", *options, "--rate", 0.95, "--seed", 3, "--run", tmp_path / "run", "--json")
    result = json.loads(done.stdout)
    assert list(result) == [
        *("run", "status", "worldsheet", "torch", "recipe", "sites", "parameters", "contenders"),
        *("time_ratio", "weights_difference", "comparisons", "gradients"),
    ]
    assert result["run"] == str(tmp_path / "run")
    assert result["status"] == "finished"
    assert set(result["recipe"]) == set(FIELDS)
    assert (result["recipe"]["rate"], result["recipe"]["seed"], result["recipe"]["schedule"]) == (
        0.95,
        3,
        "synchronous",
    )
    assert (result["sites"], result["parameters"]) == (4, 65 * 24 + 2 * 25 * 24 + 25 * 10)
    assert list(result["contenders"]) == ["relaxation", "autograd"]
    members = {"test_accuracy", "test_loss", "train_loss", "ticks", "seconds_per_step"}
    assert all(set(row) == members for row in result["contenders"].values())
    assert result["contenders"]["relaxation"]["ticks"] > 8
    assert result["contenders"]["autograd"]["ticks"] is None
    assert result["weights_difference"] < 1e-4
    assert result["comparisons"] == 5
    assert [row["name"] for row in result["gradients"]] == [
        f"{site}.linear.{part}" for site in range(4) for part in ("weight", "bias")
    ]
    assert all(row["one_minus_cosine"] < 1e-9 and row["relative_error"] < 1e-4 for row in result["gradients"])
    assert "epoch 2/2" in done.stderr


def test_a_finished_run_says_so(tmp_path: Path, options: list[str]) -> None:
    first = worldsheet("train", *options, "--run", tmp_path / "run", "--json")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    second = worldsheet("train", "--resume", tmp_path / "run", "--json")
    assert second.exit_code == 0
    assert second.stdout == first.stdout
    assert second.stderr == f"the run in {tmp_path / 'run'} is finished; this is its result\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_ctrl_c_tells_how_to_go_on(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def press(training: Training) -> None:
        if training.done == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Interrupt, "on_step", _before(press, Interrupt.on_step))
    place = tmp_path / "my run"
    stopped = worldsheet("train", *options, "--run", place, *(["--json"] if as_json else []))
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith(
        "interrupted; go on with the next command, the result will be the same:\n"
        f"  worldsheet train --resume '{place}'\n"
    )
    if as_json:
        assert json.loads(stopped.stdout) == {"status": "interrupted", "run": str(place)}
    monkeypatch.undo()
    done = worldsheet("train", "--resume", place)
    assert done.exit_code == 0
    assert "going on in" in done.stderr
    assert sorted(path.name for path in place.iterdir()) == FILES


def _before(
    first: Callable[[Training], None], then: Callable[[Interrupt, Training], None]
) -> Callable[[Interrupt, Training], None]:
    def both(self: Interrupt, training: Training) -> None:
        first(training)
        then(self, training)

    return both


def test_ctrl_c_while_the_result_is_written(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*arguments: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "worldsheet", press)
    assert worldsheet("train", *options, "--run", tmp_path / "run").exit_code == 130
    monkeypatch.undo()
    assert worldsheet("train", "--resume", tmp_path / "run").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES


def test_processes_that_are_stopped_can_be_resumed_to_the_same_bits(tmp_path: Path) -> None:
    recipe = ["--width", 24, "--depth", 3, "--epochs", 12, "--train-size", 320, "--batch-size", 32]
    kinds = (signal.SIGINT, signal.SIGKILL)
    processes = [command("train", *recipe, "--run", tmp_path / kind.name) for kind in kinds]
    waiting = dict(zip(kinds, processes, strict=True))
    deadline = time.monotonic() + 120
    while waiting and time.monotonic() < deadline:
        for kind in [kind for kind in waiting if _has_an_epoch(tmp_path / kind.name / "metrics.jsonl")]:
            waiting.pop(kind).send_signal(kind)
        time.sleep(0.005)
    assert worldsheet("train", *recipe, "--run", tmp_path / "whole").exit_code == 0
    for kind, process in zip(kinds, processes, strict=True):
        _, told = process.communicate(timeout=60)
        assert process.returncode == (130 if kind is signal.SIGINT else -kind)
        assert ("--resume" in told) == (kind is signal.SIGINT)
        assert not (tmp_path / kind.name / "result.json").exists()
        assert worldsheet("train", "--resume", tmp_path / kind.name).exit_code == 0
        for name in ("weights.safetensors", "weights-autograd.safetensors", "worldsheet.safetensors"):
            assert (tmp_path / kind.name / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _has_an_epoch(metrics: Path) -> bool:
    return metrics.is_file() and b'"kind": "epoch"' in metrics.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--data", "digts"],
            "error: no data set is called 'digts'\n  accepted: digits, mnist, fashion-mnist, cifar10\n",
        ),
        (["--schedule", "sinchronous"], "remedy: did you mean 'synchronous'?\n"),
        (["--train-size", "5000"], "error: the train set has 1437 images, and 5000 were asked for\n"),
        (["--rate", "0.5", "--schedule", "wavefront"], "remedy: use --schedule synchronous, or --rate 1\n"),
        (["--resume", "nowhere"], "error: there is no folder nowhere\n"),
        (["--resume", "nowhere", "--epochs", "3"], "error: --resume cannot be used together with --epochs\n"),
        (["--run", "/dev/null/run"], "error: /dev/null/run cannot be read or written: Not a directory\n"),
        (["--lr", "1e30", "--activation", "relu", "--train-size", "200"], "lower the learning rate"),
    ],
)
def test_refusals_are_three_lines_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = worldsheet("train", *arguments, "--json")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr


def test_weights_beyond_all_measure_still_give_json(tmp_path: Path, options: list[str]) -> None:
    done = worldsheet("train", *options, "--lr", "1e30", "--optimizer", "sgd", "--run", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["contenders"]["relaxation"]["test_loss"] > 1e10


def test_a_refusal_leaves_no_folder_behind(tmp_path: Path) -> None:
    assert worldsheet("train", "--train-size", 5000, "--run", tmp_path / "run").exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_torn_checkpoint_is_told_in_three_lines(tmp_path: Path, options: list[str]) -> None:
    assert worldsheet("train", *options, "--run", tmp_path / "run").exit_code == 0
    (tmp_path / "run" / "result.json").unlink()
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    refused = worldsheet("train", "--resume", tmp_path / "run")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {path} is damaged or belongs to another run (")


def test_a_folder_may_be_moved_between_two_sittings(tmp_path: Path, options: list[str]) -> None:
    first = json.loads(worldsheet("train", *options, "--run", tmp_path / "run", "--json").stdout)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    second = json.loads(worldsheet("train", "--resume", tmp_path / "moved", "--json").stdout)
    assert {**first, "run": str(tmp_path / "moved")} == second


def test_the_library_does_not_load_the_shell() -> None:
    code = "import sys, worldsheet; print(sorted(sys.modules.keys() & {'rich', 'typer', 'matplotlib', 'sklearn'}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"

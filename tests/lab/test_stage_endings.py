"""No stage outlives its command, a stage that is stopped is named and ended, and what cannot go on says why."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import worldsheet
from worldsheet_lab.cli import app
from worldsheet_lab.recipes import recipe_for
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.staged.launch import NOT_FINITE, Ended, ended
from worldsheet_lab.staged.setup import Setup

OPTIONS = ["--depth", "4", "--width", "16", "--train-size", "600", "--batch-size", "32", "--stages", "2", "--cuts", "2"]
OPTIONS += ["--packets-per-update", "4", "--checkpoint-every", "5"]
SOURCE = Path(worldsheet.__file__).resolve().parents[1]


def fail() -> None:
    sys.exit(3)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_stage_that_is_stopped_is_ended_when_another_has_failed() -> None:
    context = get_context("spawn")
    processes = [context.Process(target=what) for what in (fail, stop)]
    for process in processes:
        process.start()
    begun = time.monotonic()
    assert ended(processes, patience=3.0) == [Ended(3), Ended(-signal.SIGKILL, silent=True)]
    assert time.monotonic() - begun < 60


def test_what_would_be_ignored_beside_resume_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.create(recipe_for("digits", {"depth": 4}), tmp_path / "run")
    folder.write("stages.json", Setup(folder.recipe(), 2, cuts=(0, 2, 4)).to_json().encode())
    others = [["--stages", "4"], ["--weights", "passive"], ["--packets-per-update", "8"], ["--locked"], ["--cuts", "1"]]
    for words in [*others, ["--checkpoint-every", "500"], ["--messages", "exact"], ["--free-running"], ["--lr", "0.1"]]:
        shown = CliRunner().invoke(app, ["train", "--resume", str(folder.path), *words])
        assert shown.exit_code == 2, shown.output
        assert f"--resume cannot be used together with {words[0]}" in " ".join(shown.output.split())


def command(*words: str, before: str = "") -> subprocess.Popen[str]:
    where = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    line = ["sh", "-c", f'{before} exec "$@"', "sh", sys.executable, "-m", "worldsheet", "train", *OPTIONS, *words]
    return subprocess.Popen(line, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stages_of(process: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    while not list(folder.glob("checkpoints/00000[2-9]")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return [each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline())]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_no_stage_outlives_a_command_that_ignores_ctrl_c(tmp_path: Path, kind: signal.Signals) -> None:
    process = command("--epochs", "400", "--run", str(tmp_path / "run"), before="trap '' INT;")
    stages = stages_of(process, tmp_path / "run")
    assert len(stages) == 2
    process.send_signal(kind)
    _, alive = psutil.wait_procs(stages, timeout=20)
    for each in alive:
        each.kill()
    assert not alive
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if kind is signal.SIGTERM else -signal.SIGKILL)
    assert ("--resume" in output) == (kind is signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_meets_what_is_not_finite_says_so_and_not_how_to_go_on(tmp_path: Path) -> None:
    words = ["--lr", "1e38", "--optimizer", "sgd", "--epochs", "2", "--run", str(tmp_path / "run")]
    process = command(*words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == NOT_FINITE, output
    told = " ".join(output.split())
    assert "the pipeline meets what is not finite" in told
    assert "lower --lr" in told
    assert "--resume" not in told

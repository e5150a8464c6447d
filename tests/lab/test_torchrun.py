"""Stages that torchrun starts: the bits of `--stages`, and those of an undisturbed run after a worker was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from torch import equal
from typer.testing import CliRunner

import worldsheet
from worldsheet_lab.cli import app

SOURCE = Path(worldsheet.__file__).resolve().parents[1]
RUN = ["--depth", "4", "--width", "16", "--dropout", "0.1", "--train-size", "320", "--test-size", "100"]
RUN += ["--batch-size", "32", "--packets-per-update", "4", "--checkpoint-every", "3", "--cuts", "2"]
AGENT = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["-m", "worldsheet", "train"]


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    where = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=where, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    return output


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = (load_file(folder / "weights.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    assert all(equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_arrives_at_the_bits_of_processes_that_we_start(tmp_path: Path) -> None:
    options = [*RUN, "--epochs", "1", "--json"]
    here = start(sys.executable, *TRAIN, "--stages", "2", "--run", "here", *options, cwd=tmp_path)
    result = json.loads(finish(here))
    told = json.loads(finish(start(*AGENT, *TRAIN, "--engine", "pipeline", *options, cwd=tmp_path)))
    assert told["test_accuracy"] == result["test_accuracy"]
    assert_same(tmp_path / told["run"], tmp_path / "here")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_is_started_again_and_the_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = [*RUN, "--epochs", "3"]
    finish(start(sys.executable, *TRAIN, "--stages", "2", "--run", "whole", *options, cwd=tmp_path))
    words = ["--max-restarts", "1", *TRAIN, "--engine", "pipeline", "--run-dir", "broken", *options]
    agent = start(*AGENT, *words, cwd=tmp_path)
    while not list(tmp_path.glob("broken/checkpoints/00000[3-9]")):
        assert agent.poll() is None, agent.communicate()
        time.sleep(0.01)
    workers = psutil.Process(agent.pid).children()
    for worker in workers:
        listening = {link.laddr.ip for link in worker.net_connections("inet") if link.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    workers[-1].send_signal(signal.SIGKILL)
    finish(agent)
    assert_same(tmp_path / "broken", tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [row["segment"] for row in rows if row["kind"] == "segment"] == list(range(1, 13))


UNDER = {
    **{"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "RANK": "0", "LOCAL_WORLD_SIZE": "3"},
    **{"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
}


@pytest.mark.parametrize(
    ("words", "under", "told"),
    [
        (["--engine", "pipeline"], False, "torchrun --nproc-per-node 4 -m worldsheet train --engine pipeline"),
        (["--engine", "block", "--stages", "2"], False, "leave out one of them"),
        (["--engine", "steam"], False, "block, pipeline"),
        (
            ["--stages", "2", "--cuts", "4,2"],
            False,
            "--cuts must be rising numbers, 1 for 2 stages of 10 layers, got 4,2",
        ),
        (["--stages", "3", "--cuts", "2"], False, "--cuts must be rising numbers, 2 for 3 stages of 10 layers, got 2"),
        ([], True, "torchrun --nproc-per-node 3 -m worldsheet train --engine pipeline"),
        (["--engine", "pipeline", "--stages", "2"], True, "as many processes as stages"),
    ],
)
def test_engines_that_cannot_be_started_say_what_can(
    words: list[str], under: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in UNDER.items() if under else ():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(app, ["train", *words])
    assert shown.exit_code == 2
    assert told in " ".join(shown.output.split())

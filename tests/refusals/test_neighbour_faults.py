"""Neighbours that are slow, far ahead, wrong, silent or gone: what the others do, in real processes."""

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fault_process as faults
import worldsheet

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fault_process", "torch._dynamo"])  # once, for all processes
PATHS = [Path(worldsheet.__file__).resolve().parents[1], Path(faults.__file__).resolve().parent]


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, PATHS)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def act(folder: Path, stages: int, play: Callable[..., None], timeout: float = 20) -> tuple[list[int], dict[int, Any]]:
    """Exit codes by stage, and what each told."""
    answers = CONTEXT.SimpleQueue()
    where = (stages, folder / "store", timeout, play, answers)
    started = [CONTEXT.Process(target=faults.be, args=(rank, *where), daemon=True) for rank in range(stages)]
    told: dict[int, Any] = {}
    for process in started:
        process.start()
    for rank in reversed(range(stages)):  # the upper ones are those that tell
        started[rank].join(60)
        while not answers.empty():
            stage, found = answers.get()
            told.setdefault(stage, []).append(found)
        if rank and started[rank].exitcode == 3:
            started[0].kill()
    for process in started:
        process.join(60)
    return [process.exitcode or 0 for process in started], told


@pytest.mark.parametrize("play", [faults.slow, partial(faults.plain, free=False)], ids=["slow", "even"])
def test_a_slow_stage_changes_nothing_but_the_time(tmp_path: Path, play: Callable[..., None]) -> None:
    codes, told = act(tmp_path, 3, play)
    assert codes == [0, 0, 0]
    one = faults.pipeline(3)
    one.train(faults.data())
    for stage, mine in enumerate(one.stages):
        (theirs,) = told[stage]
        assert all(torch.equal(a.detach(), torch.from_numpy(b)) for a, b in zip(mine.parameters, theirs, strict=True))


def test_calls_that_leave_packets_in_flight_between_processes_are_one_call(tmp_path: Path) -> None:
    codes, told = act(tmp_path, 3, faults.in_calls)
    assert codes == [0, 0, 0]
    one = faults.pipeline(3)
    losses = one.train(faults.data()).losses
    for stage, mine in enumerate(one.stages):
        ((theirs, found),) = told[stage]
        assert all(torch.equal(a.detach(), torch.from_numpy(b)) for a, b in zip(mine.parameters, theirs, strict=True))
        assert found == (losses if stage == 2 else ())


def test_stages_that_run_freely_in_processes_come_to_an_end_near_by(tmp_path: Path) -> None:
    codes, told = act(tmp_path, 3, partial(faults.plain, free=True))
    assert codes == [0, 0, 0]
    one = faults.pipeline(3)
    start = [parameter.detach().clone() for stage in one.stages for parameter in stage.parameters]
    one.train(faults.data())
    ordered = [parameter.detach() for stage in one.stages for parameter in stage.parameters]
    free = [torch.from_numpy(array) for stage in range(3) for array in told[stage][0]]
    moved = sum(float((a - b).square().sum()) for a, b in zip(ordered, start, strict=True)) ** 0.5
    apart = sum(float((a - b).square().sum()) for a, b in zip(ordered, free, strict=True)) ** 0.5
    assert apart < moved  # as many updates by the same data, at other moments


def test_a_sender_waits_when_its_window_is_full(tmp_path: Path) -> None:
    sent = CONTEXT.Value("i", 0)
    codes, told = act(tmp_path, 2, partial(faults.ahead, sent=sent))
    early, values = told[1]
    assert codes == [0, 0]
    assert early <= faults.WINDOW
    assert values == [float(packet) for packet in range(faults.SENT)]


def test_all_others_report_when_one_is_killed_in_the_middle_of_a_step(tmp_path: Path) -> None:
    codes, told = act(tmp_path, 3, faults.killed)
    assert codes == [-9, 3, 3]
    for stage, neighbour in ((1, "stage 0 below"), (2, "stage 1 below")):
        ((message, _),) = told[stage]
        assert f"{neighbour} is gone or silent at packet" in message
        assert "start all stages from the last checkpoint" in message


def test_a_silent_neighbour_is_reported_within_the_timeout(tmp_path: Path) -> None:
    codes, told = act(tmp_path, 2, faults.silent, timeout=2)
    assert codes[1] == 3
    ((message, seconds),) = told[1]
    assert "stage 0 below is gone or silent at packet" in message
    assert seconds < 20


@pytest.mark.parametrize(
    ("play", "told"),
    [(faults.misshapen, "stage 0 below sent packet 1"), (faults.out_of_step, "stage 0 below sent packet 4")],
)
def test_what_was_not_agreed_is_refused(tmp_path: Path, play: Callable[..., None], told: str) -> None:
    codes, answers = act(tmp_path, 2, play)
    assert codes[1] == 3
    assert told in answers[1][0][0]

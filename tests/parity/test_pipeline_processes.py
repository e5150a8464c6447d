"""Stages in processes of their own: the same bits as in one process, and neighbours that fail are named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import worldsheet
from stage_process import FAR, ORDERS, layers, packets, pipeline_of

SCRIPT = Path(__file__).resolve().parents[1] / "stage_process.py"
SOURCE = Path(worldsheet.__file__).resolve().parents[1]


def start(folder: Path, stages: int, fault: str = "") -> list[tuple[int, str]]:
    """Exit code and output of each stage's process."""
    where = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(stages), str(folder / "store"), str(folder), fault],
            env={**os.environ, **where},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(stages)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


@pytest.mark.parametrize(
    ("fault", "messages", "slack"), [("", None, 0), ("rounded", torch.bfloat16, 0), ("far ahead", None, FAR)]
)
def test_processes_arrive_at_the_bits_of_one_process(
    tmp_path: Path, fault: str, messages: torch.dtype | None, slack: int
) -> None:
    ended = start(tmp_path, 3, fault)
    assert [code for code, _ in ended] == [0, 0, 0], ended
    net = layers()
    pipeline = pipeline_of(net, 3, messages, slack)
    losses = pipeline.train(packets()).losses
    saved = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    assert saved[-1]["losses"] == losses
    for stage in range(3):
        for name in (f"{layer}.{rest}" for layer in pipeline.plan.layers(stage) for rest in _names(net, layer)):
            assert torch.equal(saved[stage]["model"][name], net.state_dict()[name]), name


@pytest.mark.parametrize("fault", ORDERS)
def test_processes_clip_together_and_hand_on_several_tensors_as_one_process_does(tmp_path: Path, fault: str) -> None:
    ended = start(tmp_path, 3, fault)
    assert [code for code, _ in ended] == [0, 0, 0], ended
    net = layers()
    make, order = ORDERS[fault]
    pipeline = make(net, 3, order)
    losses = pipeline.train(packets()).losses
    saved = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    assert saved[-1]["losses"] == losses
    for stage in range(3):
        for name in (f"{layer}.{rest}" for layer in pipeline.plan.layers(stage) for rest in _names(net, layer)):
            assert torch.equal(saved[stage]["model"][name], net.state_dict()[name]), name


def _names(net: torch.nn.Module, layer: int) -> list[str]:
    return [name for name, _ in net.get_submodule(str(layer)).named_parameters()]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("killed", "stage 0 below is gone or silent at packet"),
        ("wrong", "stage 0 below sent packet 7"),
        ("late dtype", "torch.float64 samples of shape (6,)"),
        ("rounded on one side", "stage 0 below sent packet 0 as torch.bfloat16"),
    ],
)
def test_a_neighbour_that_fails_is_named(tmp_path: Path, fault: str, told: str) -> None:
    (first, _), (second, output) = start(tmp_path, 2, fault)
    assert second == 3, output
    assert told in output
    assert first == {"killed": -9, "rounded on one side": 3}.get(fault, 0)

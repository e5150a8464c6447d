"""DistributedDataParallel around a model: its buckets are filled site by site, with the average over processes."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from data_parallel_process import made

PROGRAM = Path(__file__).parents[1] / "data_parallel_process.py"


def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    runs = [
        subprocess.Popen([sys.executable, str(PROGRAM), str(tmp_path), str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for run in runs:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0, said
    model, x, target = made()
    nn.MSELoss()(model(x), target).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for parameter, gradient in zip(model.parameters(), found, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-14)

"""One stage of a pipeline in a process of its own: python stage_process.py RANK STAGES STORE OUT [FAULT]."""

import contextlib
import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.pipeline import Pipeline
from worldsheet.pipeline.distributed import NeighbourError, Wires

PACKETS = 12


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)]
    return nn.Sequential(nn.Linear(4, 6), *hidden, nn.Linear(6, 3))


def packets() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(3, 4, generator=generator), torch.randn(3, 3, generator=generator)) for _ in range(PACKETS)]


def pipeline_of(net: nn.Module, stages: int) -> Pipeline:
    chain = ws.Chain(net, nn.MSELoss())
    return Pipeline(chain, stages, optimizer=partial(torch.optim.Adam, lr=1e-2), packets_per_update=2)


def main(rank: int, stages: int, store: str, out: Path, fault: str) -> None:
    torch.set_num_threads(1)
    net = layers()
    pipeline = pipeline_of(net, stages)
    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=20), stages, rank)
    wires = Wires(rank, stages, torch.device("cpu"))
    data = packets()
    if fault == "wrong" and rank == 0:
        dist.send(torch.tensor([7, 0, 2, 3, 6, 0, 0, 0, 0, 0, 0]), 1)
        linger()
    if fault == "late dtype" and rank == 0:
        wires.send_state(0, torch.zeros(3, 6))
        wires.send_state(1, torch.zeros(3, 6, dtype=torch.float64))
        linger()
    if fault == "killed" and rank == 0:
        pipeline._parts[0].layers[0].module.register_forward_hook(Fuse(7))
    try:
        done = pipeline.run_stage(rank, wires, data)
    except NeighbourError as error:
        print(f"NeighbourError: {error}", flush=True)
        os._exit(3)
    torch.save({"losses": done.losses, "model": net.state_dict()}, out / f"{rank}.pt")
    dist.destroy_process_group()


def linger() -> None:
    """Stay until the other one has gone."""
    with contextlib.suppress(RuntimeError):
        while True:
            dist.recv(torch.zeros(11, dtype=torch.int64), 1)
    os._exit(0)


class Fuse:
    """A hook that kills its process at its n-th call."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, *_: object) -> None:
        self.calls -= 1
        if not self.calls:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else "")

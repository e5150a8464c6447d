"""One stage of a pipeline in a process of its own: python stage_process.py RANK STAGES STORE OUT [FAULT]."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.pipeline import GlobalNorm, Locked, Pipeline, PipelineSchedule, Unlocked
from worldsheet.pipeline.transport.distributed import P2PTransport
from worldsheet.pipeline.transport.message import NeighbourError

PACKETS = 24
FAR = 10
LAYERS = 6


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)]
    return nn.Sequential(nn.Linear(4, 6), *hidden, nn.Linear(6, 3))


def packets() -> list[tuple[Tensor, Tensor]]:
    """Of several sizes, the largest in the middle."""
    generator = torch.Generator().manual_seed(1)
    sizes = [3, 3, 2, 5, *[3] * (PACKETS - 4)]
    return [(torch.randn(n, 4, generator=generator), torch.randn(n, 3, generator=generator)) for n in sizes]


def pipeline_of(net: nn.Module, stages: int, messages: torch.dtype | None = None, slack: int = 0) -> Pipeline:
    chain, make = ws.Chain(net, nn.MSELoss()), partial(torch.optim.Adam, lr=1e-2)
    return Pipeline(chain, stages, optimizer=make, schedule=Unlocked(2, slack=slack), messages=messages)


class Beside(nn.Module):
    """A layer with integers on their way beside it, and a flag that is none of a credit's business."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, given: Any) -> dict[str, Any]:
        x, seen = (given, torch.arange(len(given))) if isinstance(given, Tensor) else (given["x"], given["seen"])
        return {"x": self.inner(x), "seen": seen + 1, "first": seen is None}


def of_x(output: dict[str, Tensor], target: Tensor) -> Tensor:
    assert int(output["seen"][0]) == LAYERS
    return nn.functional.mse_loss(output["x"], target)


def pipeline_together(net: nn.Sequential, stages: int, schedule: PipelineSchedule) -> Pipeline:
    """Several tensors between stages, a clip over all of them, and rates on a schedule."""
    chain = ws.Chain([Beside(layer) for layer in net], of_x)
    rates = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=PACKETS)
    make, clip = partial(torch.optim.SGD, lr=1e-2, momentum=0.9), GlobalNorm(0.05)
    return Pipeline(chain, stages, optimizer=make, scheduler=rates, clip=clip, schedule=schedule)


def pipeline_clipped(net: nn.Sequential, stages: int, schedule: PipelineSchedule) -> Pipeline:
    """States are plain tensors; only norms are more than that."""
    make, clip = partial(torch.optim.Adam, lr=1e-2), GlobalNorm(0.05)
    return Pipeline(ws.Chain(net, nn.MSELoss()), stages, optimizer=make, schedule=schedule, clip=clip)


def pipeline_tied(net: nn.Sequential, stages: int, schedule: PipelineSchedule) -> Pipeline:
    """The second layer and the fourth share their matrix, and norms travel too."""
    first, second = (net.get_submodule(name) for name in ("1.0", "3.0"))
    second.weight = first.weight
    return pipeline_clipped(net, stages, schedule)


ORDERS: dict[str, tuple[Callable[[nn.Sequential, int, PipelineSchedule], Pipeline], PipelineSchedule]] = {
    "together": (pipeline_together, Unlocked(2)),
    "together, locked": (pipeline_together, Locked(2)),
    "clipped": (pipeline_clipped, Unlocked(2)),
    "clipped, locked": (pipeline_clipped, Locked(2)),
    "tied": (pipeline_tied, Unlocked(1)),
    "tied, locked": (pipeline_tied, Locked(2)),
}


def main(rank: int, stages: int, store: str, out: Path, fault: str) -> None:
    torch.set_num_threads(1)
    net = layers()
    rounded = fault == "rounded" or (fault == "rounded on one side" and rank == 0)
    pipeline = pipeline_of(net, stages, torch.bfloat16 if rounded else None, FAR if fault == "far ahead" else 0)
    if fault in ORDERS:
        make, order = ORDERS[fault]
        pipeline = make(net, stages, order)
    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=20), stages, rank)
    wires = P2PTransport(rank, stages, torch.device("cpu"), messages=pipeline.messages)
    data = packets()
    if fault == "wrong" and rank == 0:
        dist.send(torch.tensor([7, 0, 0, 2, 3, 6, *[0] * 10]).view(torch.uint8), 1)
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
    print(wires.traffic, flush=True)
    torch.save({"losses": done.losses, "model": net.state_dict()}, out / f"{rank}.pt")
    dist.destroy_process_group()


def linger() -> None:
    """Stay until the other one has gone."""
    with contextlib.suppress(RuntimeError):
        while True:
            dist.recv(torch.zeros(128, dtype=torch.uint8), 1)
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

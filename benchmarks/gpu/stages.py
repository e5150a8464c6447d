"""Stages of a small network, in one process or in two: python -m benchmarks.gpu.stages BACKEND DEVICE FOLDER RANK."""

import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.pipeline import Pipeline
from worldsheet.pipeline.transport.distributed import P2PTransport

PACKETS = 12


def network() -> nn.Sequential:
    """Seven layers."""
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(5)]
    return nn.Sequential(nn.Linear(8, 16), *hidden, nn.Linear(16, 4))


def packets(device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """The same for every process."""
    draw = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(6, 8, generator=draw), torch.randn(6, 4, generator=draw)) for _ in range(PACKETS)]
    return [(x.to(device, dtype), target.to(device, dtype)) for x, target in pairs]


def pipeline_of(stages: int, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """Unlocked, with two packets for each update."""
    chain = ws.Chain(network().to(device, dtype), nn.MSELoss())
    return Pipeline(chain, stages, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9), packets_per_update=2)


def trained(stages: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The parameters after all packets, stage by stage, in one process."""
    pipeline = pipeline_of(stages, device, dtype)
    pipeline.train(packets(device, dtype))
    return [parameter.detach() for stage in pipeline.stages for parameter in stage.parameters]


def main(backend: str, device: torch.device, folder: Path, rank: int) -> None:
    """Be one stage of two, and keep its parameters."""
    torch.set_num_threads(1)
    dist.init_process_group(backend, f"file://{folder / 'store'}", timedelta(seconds=30), 2, rank)
    pipeline = pipeline_of(2, device, torch.float32)
    pipeline.run_stage(rank, P2PTransport(rank, 2, device), packets(device, torch.float32))
    torch.save([parameter.detach().cpu() for parameter in pipeline.stages[rank].parameters], folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], torch.device(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))

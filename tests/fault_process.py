"""What stages do in processes of their own when a neighbour is slow, wrong, silent or gone."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.core.bundle import single
from worldsheet.pipeline import ActionType, Completed, Pipeline
from worldsheet.pipeline.transport.distributed import P2PTransport, joined
from worldsheet.pipeline.transport.message import NeighbourError

PACKETS, SENT, WINDOW = 12, 40, 2
CALLS = ((0, 1), (1, 6), (6, 7), (7, PACKETS - 1), (PACKETS - 1, PACKETS))
CPU = torch.device("cpu")

Tell = Callable[[Any], None]


def pipeline(stages: int, free: bool = False) -> Pipeline:
    torch.manual_seed(0)
    hidden: list[nn.Module] = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]
    chain = ws.Chain(nn.Sequential(nn.Linear(4, 6), *hidden, nn.Linear(6, 3)), nn.MSELoss())
    make = partial(torch.optim.Adam, lr=1e-2)
    return Pipeline(chain, stages, optimizer=make, packets_per_update=2, free_running=free)


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(3, 4, generator=generator), torch.randn(3, 3, generator=generator)) for _ in range(PACKETS)]


def train(rank: int, stages: int, tell: Tell, watch: Callable[[Completed], None], free: bool = False) -> None:
    mine = pipeline(stages, free)
    mine.run_stage(rank, P2PTransport(rank, stages, CPU), data(), watch)
    tell([parameter.detach().numpy() for parameter in mine.stages[rank].parameters])


def plain(rank: int, stages: int, tell: Tell, free: bool) -> None:
    train(rank, stages, tell, lambda done: None, free)


def in_calls(rank: int, stages: int, tell: Tell) -> None:
    """Packets in calls that leave some in flight, from a generator, read by every process for itself."""
    mine, wires, packets = pipeline(stages), P2PTransport(rank, stages, CPU), data()
    losses: tuple[float, ...] = ()
    for begin, end in CALLS:
        losses += mine.run_stage(rank, wires, iter(packets[begin:end]), drain=False).losses
    losses += mine.run_stage(rank, wires).losses
    tell(([parameter.detach().numpy() for parameter in mine.stages[rank].parameters], losses))


def slow(rank: int, stages: int, tell: Tell) -> None:
    train(rank, stages, tell, lambda done: time.sleep(0.02 * (rank == 1)))


def killed(rank: int, stages: int, tell: Tell) -> None:
    def fuse(done: Completed) -> None:
        if rank == 0 and done.action == (ActionType.PULL, 3):
            os.kill(os.getpid(), signal.SIGKILL)

    train(rank, stages, tell, fuse)


def silent(rank: int, stages: int, tell: Tell) -> None:
    train(rank, stages, tell, lambda done: time.sleep(30.0 * (rank == 0 and done.action.packet == 3)))


def misshapen(rank: int, stages: int, tell: Tell) -> None:
    wires = P2PTransport(rank, stages, CPU)
    if rank == 0:
        wires.send_state(0, torch.zeros(3, 6))
        wires.send_state(1, torch.zeros(3, 7))
        time.sleep(30)
    wires.take_state(0)
    wires.take_state(1)


def out_of_step(rank: int, stages: int, tell: Tell) -> None:
    wires = P2PTransport(rank, stages, CPU)
    if rank == 0:
        wires.send_state(4, torch.zeros(3, 6))
        time.sleep(30)
    wires.take_state(0)


def ahead(rank: int, stages: int, tell: Tell, sent: "Synchronized[int]") -> None:
    wires = P2PTransport(rank, stages, CPU, window=WINDOW)
    if rank == 0:
        for packet in range(SENT):
            wires.send_state(packet, torch.full((64, 64), float(packet)))
            sent.value = packet + 1
        wires.close()
        return
    time.sleep(1.0)  # the other one gets as far as it can
    tell(sent.value)
    tell([single(wires.take_state(packet))[0, 0].item() for packet in range(SENT)])


def be(rank: int, stages: int, store: Path, timeout: float, play: Callable[..., None], answers: Any) -> None:
    """The process of a stage: what it tells, or the error that it ends with, goes to `answers`."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    begun = time.perf_counter()
    try:
        with joined(rank, stages, f"file://{store}", timeout):
            begun = time.perf_counter()
            play(rank, stages, lambda found: answers.put((rank, found)))
    except NeighbourError as error:
        answers.put((rank, (str(error), time.perf_counter() - begun)))
        os._exit(3)

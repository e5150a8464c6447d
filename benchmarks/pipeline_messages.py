"""What travels between two stages, what it costs alone, and how much of that is hidden behind the computing."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.pipeline_contenders import RANKS, Stages
from worldsheet.pipeline.packets import Counted
from worldsheet.pipeline.transport.distributed import P2PTransport

_ALONE = 32  # packets that travel alone


@final
@dataclass(frozen=True)
class Post:
    """What a stage sends.

    Attributes:
        name: of the contender.
        stage: which.
        dtype: what numbers travel as.
        messages: per update.
        bytes_per_sample: headers included.
        alone: seconds per update that the messages of both stages take if nobody computes, one after the other.
        waited: seconds per update that the stage stood waiting, by the median over the packets of a passage.
        hidden: of the time alone, the share that the stage that waited less did not wait for: 1 − waited / alone, at
            least 0. What it waits for its neighbour's computing counts against it.
    """

    name: str
    stage: int
    dtype: str
    messages: float
    bytes_per_sample: float
    alone: float
    waited: float
    hidden: float


def posts(name: str, contender: Stages, batches: int, batch: int) -> Iterator[Post]:
    """Of both stages, after a passage of so many batches."""
    before = contender.wires.traffic
    contender.train(batches)
    after = contender.wires.traffic
    many = contender.pipeline.schedule.packets_per_update
    waits = sorted(contender.waits)
    waited = 2 * many * waits[len(waits) // 2]
    alone = many * _alone(contender.piece, contender.rank, contender.pipeline.messages)
    mine = [(after.messages - before.messages) / batches, (after.sent - before.sent) / batches / batch, alone, waited]
    rows = torch.zeros(RANKS, len(mine), dtype=torch.float64)
    rows[contender.rank] = torch.tensor(mine, dtype=torch.float64)
    dist.all_reduce(rows)
    least = rows[:, 3].min().item()
    dtype = str(contender.pipeline.messages or contender.piece.dtype).removeprefix("torch.")
    for stage, row in enumerate(rows.tolist()):
        messages, sent, alone, waited = row
        yield Post(name, stage, dtype, messages, sent, alone, waited, max(0.0, 1 - least / alone))


def _alone(state: Tensor, rank: int, messages: torch.dtype | None) -> float:
    """Seconds that a state takes up and a credit takes down."""
    wires = P2PTransport(rank, RANKS, state.device, messages=messages)
    wires.open(Counted(_ALONE))
    begun = perf_counter()
    for packet in range(_ALONE):
        if packet == _ALONE // 4:
            begun = perf_counter()
        if rank == 0:
            wires.send_state(packet, state)
            wires.take_credit(packet)
        else:
            wires.take_state(packet)
            wires.send_credit(packet, state)
    seconds = perf_counter() - begun
    wires.close()
    return seconds / (_ALONE - _ALONE // 4)

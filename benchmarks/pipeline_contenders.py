"""Who trains a case side by side: our stages, torch's schedules, one process, and copies that average gradients.

Each contender is made anew in both processes, from the same seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import Parameter

from benchmarks.pipeline_cases import MICRO_BATCHES, OPTIMIZER, Case, Instance, instance
from benchmarks.timing import threads
from worldsheet.core.bundle import single
from worldsheet.diagnostics.autograd import autograd_accumulate
from worldsheet.pipeline import (
    ActionType,
    Completed,
    Current,
    DelayCompensated,
    Locked,
    Pipeline,
    PipelineSchedule,
    Predicted,
    Unlocked,
    Weights,
)
from worldsheet.pipeline.transport.distributed import P2PTransport

RANKS = 2
"""Processes."""

_SILENCE = timedelta(seconds=60)


class Bench(NamedTuple):
    """Where a contender is made.

    Attributes:
        case: what is trained.
        seed: of weights and data.
        rank: which of the two processes this is.
        costs: seconds per layer, by which stages are balanced.
    """

    case: Case
    seed: int
    rank: int
    costs: tuple[float, ...]

    def instance(self) -> Instance:
        """Weights and a batch, the same for everybody."""
        return instance(self.case, self.seed)


class Contender(ABC):
    """One way to train, as this process takes part in it."""

    @property
    @abstractmethod
    def parameters(self) -> list[Parameter]:
        """Those that this process moves."""

    @abstractmethod
    def train(self, batches: int) -> None:
        """Train so many batches, an update each."""

    @property
    def cadence(self) -> float | None:
        """Seconds from update to update in the last turn, of a contender that never flushes; else None."""
        return None


@final
class Stages(Contender):
    """A pipeline of this package, a stage in each process.

    Args:
        bench: where.
        order: what stages do when.
        weights: what packets see of the parameters.
        messages: what numbers travel as.

    Attributes:
        pipeline: all of it; one stage is used here.
        wires: to the other process.
        rank: which process this is.
        waits: seconds before each state or credit of the last passage could be worked on.
    """

    def __init__(
        self, bench: Bench, order: PipelineSchedule, weights: Weights, messages: torch.dtype | None = None
    ) -> None:
        self._instance = bench.instance()
        self.rank = bench.rank
        self.waits: list[float] = []
        self._updates: list[float] = []
        chain, plan = self._instance.chain, self._instance.plan(RANKS, bench.costs)
        self.pipeline = Pipeline(chain, plan, optimizer=OPTIMIZER, schedule=order, weights=weights, messages=messages)
        self.wires = P2PTransport(bench.rank, RANKS, torch.device("cpu"), messages=messages)

    @property
    def parameters(self) -> list[Parameter]:
        """Of its stage."""
        return self.pipeline.stages[self.rank].parameters

    def train(self, batches: int) -> None:
        """One passage, from an empty pipeline to an empty pipeline; notes how long each message was waited for."""
        packets = self._instance.packets(self.pipeline.schedule.packets_per_update, batches)
        done: list[Completed] = []
        self.pipeline.run_stage(self.rank, self.wires, packets, done.append)
        self.waits = [
            after.begin - before.end for before, after in pairwise(done) if after.action.act is not ActionType.UPDATE
        ]
        self._updates = [each.end for each in done if each.action.act is ActionType.UPDATE]

    @property
    def cadence(self) -> float | None:
        """Without the filling and emptying, which a run of many batches has once."""
        if not isinstance(self.pipeline.schedule, Unlocked) or len(self._updates) < 2:
            return None
        return (self._updates[-1] - self._updates[0]) / (len(self._updates) - 1)

    @property
    def piece(self) -> Tensor:
        """One packet's state where the two stages meet."""
        x = self._instance.packets(self.pipeline.schedule.packets_per_update, 1)[0][0]
        return single(self.pipeline.stages[0].infer(x))


@final
@dataclass(frozen=True)
class Schedule:
    """One of torch's.

    Attributes:
        make: its class.
        places: by rank, which stages it owns.
    """

    make: Callable[..., Any]
    places: tuple[tuple[int, ...], ...]

    @property
    def stages(self) -> int:
        """Of all ranks."""
        return sum(len(places) for places in self.places)


_ONE_EACH, _LOOPED, _V = ((0,), (1,)), ((0, 2), (1, 3)), ((0, 3), (1, 2))

SCHEDULES: Mapping[str, Schedule] = {
    "GPipe": Schedule(ScheduleGPipe, _ONE_EACH),
    "1F1B": Schedule(Schedule1F1B, _ONE_EACH),
    "Interleaved1F1B": Schedule(ScheduleInterleaved1F1B, _LOOPED),
    "InterleavedZeroBubble": Schedule(ScheduleInterleavedZeroBubble, _LOOPED),
    "ZBVZeroBubble": Schedule(ScheduleZBVZeroBubble, _V),
    "DualPipeV": Schedule(ScheduleDualPipeV, _V),
}
"""Those of `torch.distributed.pipelining`."""


@final
class Torch(Contender):
    """One of torch's schedules.

    Args:
        bench: where.
        schedule: which.
        pieces: micro-batches.
    """

    def __init__(self, bench: Bench, schedule: Schedule, pieces: int) -> None:
        chain, self._x, self._target = bench.instance()
        plan = bench.instance().plan(schedule.stages, bench.costs)
        places, group = schedule.places[bench.rank], dist.new_group(timeout=_SILENCE)
        parts = [nn.Sequential(*[chain.layers[i].module for i in plan.layers(place)]) for place in places]
        device, count = torch.device("cpu"), schedule.stages
        stages = [PipelineStage(part, s, count, device, group=group) for part, s in zip(parts, places, strict=True)]
        self._first, self._last = 0 in places, count - 1 in places
        self._schedule = schedule.make(stages if len(stages) > 1 else stages[0], pieces, loss_fn=chain.loss)
        self._parameters = [parameter for part in parts for parameter in part.parameters()]
        self._optimizer = OPTIMIZER(self._parameters)

    @property
    def parameters(self) -> list[Parameter]:
        """Of its stages."""
        return self._parameters

    def train(self, batches: int) -> None:
        """A step of the schedule and an update, again and again."""
        given = (self._x,) if self._first else ()
        target: dict[str, Any] = {"target": self._target} if self._last else {}
        for _ in range(batches):
            self._schedule.step(*given, **target, return_outputs=False)
            self._optimizer.step()
            self._optimizer.zero_grad()


@final
class Alone(Contender):
    """Autograd in the first process; the second one sleeps.

    Args:
        bench: where.
        count: threads.
    """

    def __init__(self, bench: Bench, count: int) -> None:
        chain, self._x, self._target = bench.instance()
        self._module, self._loss = nn.Sequential(*[layer.module for layer in chain.layers]), chain.loss
        self._optimizer = OPTIMIZER(self._module.parameters())
        self._count, self._works = count, bench.rank == 0

    @property
    def parameters(self) -> list[Parameter]:
        """All, or none."""
        return list(self._module.parameters()) if self._works else []

    def train(self, batches: int) -> None:
        """Forward, backward and update."""
        with threads(self._count):
            for _ in range(batches if self._works else 0):
                autograd_accumulate(self._loss(self._module(self._x), self._target))
                self._optimizer.step()
                self._optimizer.zero_grad()


@final
class Copies(Contender):
    """Both processes hold the network and half of the batch, and average their gradients.

    Args:
        bench: where.
    """

    def __init__(self, bench: Bench) -> None:
        chain, x, target = bench.instance()
        module = nn.Sequential(*[layer.module for layer in chain.layers])
        self._module, self._loss = DistributedDataParallel(module), chain.loss
        self._x, self._target = x.chunk(RANKS)[bench.rank], target.chunk(RANKS)[bench.rank]
        self._optimizer = OPTIMIZER(self._module.parameters())

    @property
    def parameters(self) -> list[Parameter]:
        """All of its copy."""
        return list(self._module.parameters())

    def train(self, batches: int) -> None:
        """Forward, backward with torch's overlapped averaging, and update."""
        for _ in range(batches):
            autograd_accumulate(self._loss(self._module(self._x), self._target))
            self._optimizer.step()
            self._optimizer.zero_grad()


class Entry(NamedTuple):
    """One row of the field.

    Attributes:
        name: of the contender.
        pieces: packets or micro-batches per update; 0 where a batch is not cut.
        make: makes it.
    """

    name: str
    pieces: int
    make: Callable[[Bench], Contender]


ONE = "one process, 1 thread"
UNLOCKED = ("ours unlocked, current", "ours unlocked, predicted", "ours unlocked, passive")


def field() -> Sequence[Entry]:
    """All contenders with all numbers of micro-batches."""
    found = [Entry(ONE, 0, partial(Alone, count=1)), Entry("one process, 2 threads", 0, partial(Alone, count=2))]
    found.append(Entry("DDP, 2 processes", 0, Copies))
    for pieces in MICRO_BATCHES:
        order, flush = Unlocked(pieces), Locked(pieces)
        found.append(Entry(UNLOCKED[0], pieces, partial(Stages, order=order, weights=Current())))
        found.append(Entry(UNLOCKED[1], pieces, partial(Stages, order=order, weights=Predicted())))
        found.append(Entry(UNLOCKED[2], pieces, partial(Stages, order=order, weights=DelayCompensated())))
        found.append(Entry("ours locked", pieces, partial(Stages, order=flush, weights=Current())))
        for name, schedule in SCHEDULES.items():
            found.append(Entry(f"torch {name}", pieces, partial(Torch, schedule=schedule, pieces=pieces)))
    return found

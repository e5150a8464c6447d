"""Stages on paper: what they compute is a sleep of known length, so that many of them fit on few cores.

A stage sleeps as long on the way up as for the credit and for the efforts on the way back. What is measured is the
share of the time that the stages sleep: nothing of it is lost to the arithmetic, and all of the order and the messages
is in it.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B, ScheduleGPipe

from benchmarks.pipeline_processes import in_processes
from worldsheet.core.types import Costate, Point, State
from worldsheet.layers.steps import OffersStep, Step
from worldsheet.pipeline import Current, Locked, Pipeline, Unlocked, timeline
from worldsheet.pipeline.transport.distributed import P2PTransport, joined
from worldsheet.problem import Chain
from worldsheet_lab.atomic import replace_file
from worldsheet_lab.streams import seed_of

GOAL = 0.95
"""Share of the time that unlocked stages work."""

_ORDERS: Mapping[str, Unlocked] = {"ours unlocked": Unlocked(1), "ours unlocked, slack 1": Unlocked(1, slack=1)}
UNLOCKED = tuple(_ORDERS)
_SCHEDULES: Mapping[str, Any] = {"torch 1F1B": Schedule1F1B, "torch GPipe": ScheduleGPipe}

_PATIENCE = 300.0
_WARM_UP = 2
_PACKET = torch.ones(1, 8), torch.zeros(1, 8)
_OPTIMIZER = partial(torch.optim.SGD, lr=0.0)


class StageLatency(NamedTuple):
    """How long a stage sleeps for a packet.

    Attributes:
        up: seconds on the way up; the way back takes twice as long.
        spread: standard deviation of each sleep, as a share of it.
    """

    up: float
    spread: float = 0.0


class LatencyRun(NamedTuple):
    """Stages and how they sleep.

    Attributes:
        name: even, slow or jitter.
        naps: of each stage.
    """

    name: str
    naps: tuple[StageLatency, ...]


def nights(stages: int, up: float) -> tuple[LatencyRun, ...]:
    """All alike; one in the middle twice as slow; each sleep drawn anew, with a deviation of a fifth."""
    even, half = (StageLatency(up),) * stages, stages // 2
    slow = (*even[:half], StageLatency(2 * up), *even[half + 1 :])
    return (
        LatencyRun("even", even),
        LatencyRun("one stage 2x slower", slow),
        LatencyRun("20 % jitter", (StageLatency(up, 0.2),) * stages),
    )


@final
class SimulatedLatency(nn.Module, OffersStep):
    """Returns its input, after a sleep; on the way back it sleeps as long for the input's credit and for the efforts.

    Args:
        nap: how long.
        seed: of the lengths, if they are drawn.
        first: whether nobody wants its input's credit; it sleeps for the efforts then, to take as long as the others.

    Attributes:
        sleeps: the length of each, and the moment at which it was over.
    """

    def __init__(self, nap: StageLatency, seed: int, first: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.sleeps: list[tuple[float, float]] = []
        self.first = first
        self._nap = nap
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """The input, as autograd sees it: one sleep on the way up, two on the way back."""
        self.sleep()
        y = x * self.gain
        y.register_hook(self._back)  # type: ignore[no-untyped-call]
        return y

    def _back(self, credit: Tensor) -> None:
        del credit
        self.sleep()
        self.sleep()

    def step(self) -> Step:
        """The same map with its derivatives."""
        return _Sleep(self)

    def sleep(self) -> None:
        """For the length of a nap."""
        seconds = self._nap.up
        if self._nap.spread:
            seconds *= max(0.0, 1 + self._nap.spread * torch.randn((), generator=self._generator).item())
        time.sleep(seconds)
        self.sleeps.append((seconds, time.perf_counter()))


@final
class _Sleep(Step):
    def __init__(self, sleeper: SimulatedLatency) -> None:
        self._sleeper = sleeper

    @property
    def has_parameters(self) -> bool:
        return True

    def forward(self, x: Point) -> tuple[State, Point]:
        self._sleeper.sleep()
        return x.clone(), x

    def pull(self, credit: Costate, saved: Point) -> Costate:
        self._sleeper.sleep()
        return credit.clone()

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        for _ in range(1 + self._sleeper.first):
            self._sleeper.sleep()
        return ((self._sleeper.gain, (credit * saved).sum()),)


@final
@dataclass(frozen=True)
class Slept:
    """One order under one night.

    Attributes:
        night: how stages slept.
        order: who trained.
        up: seconds of a sleep of an even stage on the way up.
        stages: how many.
        pieces: micro-batches between two flushes; 0 for none.
        packets: that passed.
        seconds: from an empty pipeline to an empty pipeline.
        whole: share of that time that stages slept, on average over stages.
        busy: the same in the middle half of a stage's sleeps, where there is no flush; else the whole.
        pace: that of the busiest stage.
        paper: the busiest stage's share if messages and everything else took no time; None where sleeps are drawn.
    """

    night: str
    order: str
    up: float
    stages: int
    pieces: int
    packets: int
    seconds: float
    whole: float
    busy: float
    pace: float
    paper: float | None


class Length(NamedTuple):
    """How much is slept.

    Attributes:
        up: seconds of a sleep on the way up.
        packets: without a flush; fewer where a stage is slower.
        flushes: steps of torch's schedules.
    """

    up: float
    packets: int
    flushes: int


def slept(stages: int, length: Length) -> list[dict[str, Any]]:
    """Every order under every night, as plain data of `Slept`.

    Raises:
        ProcessRaisedException: a stage that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        in_processes(_take_part, (stages, length, where), stages)
        found: list[dict[str, Any]] = json.loads((where / "slept.json").read_text())
        return found


def _take_part(rank: int, stages: int, length: Length, where: Path) -> None:
    torch.set_num_threads(1)
    with joined(rank, stages, f"file://{where}/store", _PATIENCE):
        rows = [asdict(row) for night in nights(stages, length.up) for row in _all(night, rank, length)]
        if rank == 0:
            replace_file(where / "slept.json", json.dumps(rows).encode())
        dist.barrier()


def _all(night: LatencyRun, rank: int, length: Length) -> Iterator[Slept]:
    stages = len(night.naps)
    packets = round(length.packets * length.up / max(nap.up for nap in night.naps))
    for name in _ORDERS:
        yield _timed(night, rank, name, 0, packets)
    for name in _SCHEDULES:
        yield _timed(night, rank, name, stages, stages * length.flushes)


def _timed(night: LatencyRun, rank: int, order: str, pieces: int, packets: int) -> Slept:
    stages, naps = len(night.naps), night.naps
    sleeper = SimulatedLatency(naps[rank], seed_of(0, night.name, rank), first=rank == 0)
    train = (
        _flushing(sleeper, rank, stages, _SCHEDULES[order])
        if pieces
        else _unlocked(sleeper, rank, stages, _ORDERS[order])
    )
    train(pieces or _WARM_UP)
    dist.barrier()
    sleeper.sleeps.clear()
    begun = time.perf_counter()
    train(packets)
    dist.barrier()
    seconds, shares = torch.tensor([time.perf_counter() - begun]), torch.zeros(stages, 2)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    slept = sleeper.sleeps
    whole = sum(length for length, _ in slept) / seconds.item()
    shares[rank] = torch.tensor([whole, whole if pieces else _middle(slept)])
    dist.all_reduce(shares)
    (all_of_it, busy), pace = shares.mean(0).tolist(), shares[:, 1].max().item()
    paper = _paper(naps, pieces)
    return Slept(night.name, order, naps[0].up, stages, pieces, packets, seconds.item(), all_of_it, busy, pace, paper)


def _middle(slept: list[tuple[float, float]]) -> float:
    """Share of the time between the first and the last of the middle half of the sleeps."""
    some = slept[len(slept) // 4 : 3 * len(slept) // 4]
    return sum(length for length, _ in some[1:]) / (some[-1][1] - some[0][1])


def _unlocked(sleeper: SimulatedLatency, rank: int, stages: int, order: Unlocked) -> Callable[[int], object]:
    modules: list[nn.Module] = [SimulatedLatency(StageLatency(0.0), 0, first=False) for _ in range(stages)]
    modules[rank] = sleeper
    pipeline = Pipeline(Chain(modules, nn.MSELoss()), stages, optimizer=_OPTIMIZER, schedule=order, weights=Current())
    wires = P2PTransport(rank, stages, torch.device("cpu"))
    return lambda packets: pipeline.run_stage(rank, wires, [_PACKET] * packets)


def _flushing(sleeper: SimulatedLatency, rank: int, stages: int, schedule: Any) -> Callable[[int], object]:
    """A flush after as many micro-batches as there are stages, the fewest that 1F1B takes."""
    stage = PipelineStage(sleeper, rank, stages, torch.device("cpu"))
    order = schedule(stage, stages, loss_fn=nn.MSELoss())
    x, target = (part.expand(stages, -1).clone() for part in _PACKET)
    given = (x,) if rank == 0 else ()
    wanted = {"target": target} if rank == stages - 1 else {}

    def train(packets: int) -> None:
        for _ in range(packets // stages):
            order.step(*given, **wanted, return_outputs=False)

    return train


def _paper(naps: tuple[StageLatency, ...], pieces: int) -> float | None:
    """The busiest stage's share of the time in the order itself."""
    if any(nap.spread for nap in naps):
        return None
    if not pieces:
        return 1.0
    ups = [nap.up for nap in naps]
    spans = timeline(Locked(pieces), pieces, ups, [2 * up for up in ups])
    return 3 * max(ups) * pieces / max(span.end for span in spans)

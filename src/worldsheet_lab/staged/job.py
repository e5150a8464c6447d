"""What stages train, apart from how they are cut: the network, its packets, and how it is judged."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.core.bundle import Parcel, single
from worldsheet.pipeline import Stage, Transport
from worldsheet.pipeline.update_rule import MakeOptimizer, MakeScheduler
from worldsheet.problem import Chain
from worldsheet_lab.run_folder import Row

Place = dict[str, int]
"""Where in a run something was: {"epoch": 3}, or {"update": 200}."""


@final
@dataclass(frozen=True)
class Segment:
    """Updates between two checkpoints.

    Attributes:
        number: counted from 1 over the whole run.
        place: where its end is.
        batches: what each of its updates is made of.
        judged: whether the network is judged when it has ended.
    """

    number: int
    place: Place
    batches: Sequence[Any]
    judged: bool


@final
class Packets(Sequence[tuple[Tensor, Tensor]]):
    """Packets that are gathered when a stage asks for them: those in the middle never do.

    Args:
        count: how many.
        gather: makes one of them, by its number.
    """

    def __init__(self, count: int, gather: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self._count, self._gather = count, gather

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        return self._gather(number)


@final
@dataclass(frozen=True)
class Rule:
    """How parameters answer efforts.

    Attributes:
        optimizer: makes the optimizer of one stage's parameters.
        scheduler: makes what moves its rates; None for rates that stay.
    """

    optimizer: MakeOptimizer
    scheduler: MakeScheduler | None = field(default=None)


class Job(ABC):
    """A network, its packets and how it is judged. Every concrete kind is final."""

    def check(self) -> None:
        """Refuse data that are not those that the run was begun with, before any stage is started."""
        return

    @abstractmethod
    def chain(self, own: range | None = None) -> Chain:
        """The network with its start weights.

        Args:
            own: the layers whose weights are wanted, counted from 0; the others have none, and take no memory.
        """

    @abstractmethod
    def rule(self, chain: Chain) -> Rule:
        """How its parameters answer efforts."""

    @abstractmethod
    def costs(self, many: int) -> tuple[float, ...]:
        """Seconds that each layer takes for a packet, where a batch is cut into so many."""

    @abstractmethod
    def segments(self, every: int) -> list[Segment]:
        """All segments, of no more than `every` updates."""

    @abstractmethod
    def sizes(self, segment: Segment, many: int) -> list[int]:
        """Samples of each packet of a segment, where a batch is cut into `many`."""

    @abstractmethod
    def packets(self, segment: Segment, many: int) -> Packets:
        """The same packets."""

    @abstractmethod
    def judged(self) -> Packets:
        """What the network is judged by, in batches."""

    @abstractmethod
    def score(self, output: Tensor, target: Tensor) -> float:
        """Of one batch, to be added up."""

    @abstractmethod
    def verdict(self, segment: Segment, scores: Sequence[float]) -> Row:
        """The line of metrics that the scores of all batches make."""

    def speed(self, samples_per_s: float) -> Row:
        """More about throughput than samples a second."""
        return {}

    @torch.no_grad()
    def examine(self, stage: Stage, wires: Transport, segment: Segment) -> Row | None:
        """Carry what the network is judged by up, without coming back: the verdict, at the last stage."""
        stage.train(False)
        scores: list[float] = []
        batches = self.judged()
        for number in range(len(batches)):
            given: Parcel = batches[number][0] if stage.first else wires.take_state(number)
            output = stage.infer(given)
            if stage.last:
                scores.append(self.score(single(output), batches[number][1]))
            else:
                wires.send_state(number, output)
        wires.close()
        return self.verdict(segment, scores) if stage.last else None

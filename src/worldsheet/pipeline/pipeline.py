"""A chain cut into stages that never wait for a global pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.pipeline.partition import Plan, balanced, parts_of
from worldsheet.pipeline.schedule import Action, ActionType, Locked, PipelineSchedule, Unlocked
from worldsheet.pipeline.stage import Completed, MakeOptimizer, Packets, Stage, execute
from worldsheet.pipeline.transport.base import Transport, queues
from worldsheet.pipeline.transport.message import floating
from worldsheet.pipeline.transport.threads import ThreadedTransport, as_they_come
from worldsheet.pipeline.weights import DelayCompensated, Weights
from worldsheet.problem import Chain

Watch: TypeAlias = Callable[[Completed], None]
"""Is told what a stage has done, and when."""

_PASSIVE = DelayCompensated()


@final
@dataclass(frozen=True)
class TrainingResult:
    """What one passage of packets left.

    Attributes:
        losses: of each packet, in order, as it was when the packet reached the last stage; empty where another process
            has it.
        updates: how often each stage of this process has moved its parameters since it was made.
    """

    losses: tuple[float, ...]
    updates: tuple[int, ...]


@final
class Pipeline:
    """Unlocked training: stages of consecutive layers, each busy with its own packet, talking to two neighbours only.

    A stage carries a packet up, pulls another's credit back and moves its own parameters after every M credits. There
    is no global backward pass and no flush; the price is that credits answer parameters that have moved meanwhile, as
    `schedule.delay` says. `schedule=Locked(M)` flushes before each update and is training in one process to the last
    bit.

    Cost per packet and stage: one evaluation and one pull-back of its layers, one state up and one credit down.

    Args:
        chain: the layers and the loss; each layer reads the one below.
        stages: how many, or a `Plan`; a number cuts into equal counts of layers.
        optimizer: makes the optimizer of one stage's parameters: `partial(torch.optim.Adam, lr=1e-3)`.
        packets_per_update: M, for the default order.
        weights: what packets see of the parameters while they are in flight, and how those answer late credits.
        schedule: what stages do when; `Unlocked(packets_per_update)` by default.
        messages: what states and credits are rounded to between stages, such as `torch.bfloat16`; None sends them as
            they are.

        free_running: whether each stage does what it has messages for, instead of what the schedule says next. A stage
            that is late then holds up others less, with no more packets in flight, but the weights depend on the
            moments at which messages come: across processes no two runs are the same.

    Raises:
        InputError: more stages than layers, a parameter that two stages share, a chain that is no path, messages of a
            dtype that is not floating, or a locked order that is to run freely.
    """

    def __init__(  # noqa: PLR0913  what decides a training
        self,
        chain: Chain,
        stages: int | Plan,
        *,
        optimizer: MakeOptimizer,
        packets_per_update: int = 8,
        weights: Weights = _PASSIVE,
        schedule: PipelineSchedule | None = None,
        messages: torch.dtype | None = None,
        free_running: bool = False,
    ) -> None:
        self.messages = floating(messages)
        self.schedule = schedule if schedule is not None else Unlocked(packets_per_update)
        self.free_running = free_running
        if free_running and isinstance(self.schedule, Locked):
            raise InputError(f"{self.schedule} with free_running=True", "an unlocked order", "leave out one of the two")
        self.plan = stages if isinstance(stages, Plan) else balanced([1.0] * len(chain), stages)
        self._parts = parts_of(chain, self.plan)
        count = len(self._parts)
        self.stages = [
            Stage(
                part,
                optimizer,
                weights,
                delay=self.schedule.delay(index, count),
                packets_per_update=self.schedule.packets_per_update,
                first=index == 0,
                last=index == count - 1,
            )
            for index, part in enumerate(self._parts)
        ]

    def train(self, packets: Packets) -> TrainingResult:
        """Let packets pass through all stages in this process, in turns.

        The actions of each stage are those of `schedule`, so that the weights are, to the last bit, what the same
        stages in processes of their own arrive at.

        Args:
            packets: pairs (x, target).

        Raises:
            InputError: no packets.
            LayerError: a layer or loss that fails on what it receives.
        """
        if not len(packets):
            raise InputError("no packets", "at least one (x, target)", "cut a batch: x.split(8), target.split(8)")
        count = len(self.stages)
        losses: list[Tensor] = []
        runs = [
            self._run(index, transport, packets, losses) for index, transport in enumerate(queues(count, self.messages))
        ]
        while runs:
            runs = [run for run in runs if next(run, _ENDED) is not _ENDED]
        return TrainingResult(_numbers(losses), tuple(stage.updates for stage in self.stages))

    def run_stage(
        self, index: int, transport: Transport, packets: Packets, watch: Watch | None = None
    ) -> TrainingResult:
        """Let packets pass through one stage, whose neighbours are elsewhere; every process gives the same packets.

        Args:
            index: which stage.
            transport: its edges.
            packets: pairs (x, target); only the first stage looks at x, only the last at the target.
            watch: is told each action when it is done.

        Raises:
            InputError: a transport whose messages are not those of the pipeline.
        """
        if transport.messages != self.messages:
            raise InputError(
                f"a transport with messages={transport.messages}, a pipeline with messages={self.messages}",
                "the same for both",
                "make the transport with messages=pipeline.messages",
            )
        count, losses, stage = len(packets), list[Tensor](), self.stages[index]
        transport.open(count, self.schedule.under_way(len(self.stages)))
        if self.free_running:
            transport = ThreadedTransport(transport, 0 if stage.first else count, 0 if stage.last else count)
        for done in execute(stage, self._actions(index, transport, count), transport, packets):
            _note(stage, done, losses)
            if done is None:
                transport.wait()
            elif watch is not None:
                watch(done)
        transport.close()
        return TrainingResult(_numbers(losses), (self.stages[index].updates,))

    def _run(self, index: int, transport: Transport, packets: Packets, losses: list[Tensor]) -> Iterator[bool]:
        stage = self.stages[index]
        for done in execute(stage, self._actions(index, transport, len(packets)), transport, packets):
            _note(stage, done, losses)
            yield True

    def _actions(self, index: int, transport: Transport, packets: int) -> Iterator[Action | None]:
        if self.free_running:
            return as_they_come(self.schedule, index, len(self.stages), packets, transport)
        return self.schedule.actions(index, len(self.stages), packets)


_ENDED = object()


def _note(stage: Stage, done: Completed | None, losses: list[Tensor]) -> None:
    if stage.last and done is not None and done.action.act is ActionType.FORWARD and stage.loss is not None:
        losses.append(stage.loss)


def _numbers(losses: Sequence[Tensor]) -> tuple[float, ...]:
    """All at once when the last packet has passed, so that no packet waits for the device."""
    return tuple(torch.stack(tuple(losses)).tolist()) if losses else ()

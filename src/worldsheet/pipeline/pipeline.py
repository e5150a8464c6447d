"""A chain cut into stages that never wait for a global pass."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch

from worldsheet.core.errors import InputError
from worldsheet.core.words import plural
from worldsheet.pipeline.clipping import Clip
from worldsheet.pipeline.ledger import Ledger
from worldsheet.pipeline.packet_weights import Weigh, weights_of
from worldsheet.pipeline.packets import Counted, Packets, PacketStream
from worldsheet.pipeline.partition import Plan, balanced, parts_of, ties_of
from worldsheet.pipeline.passage import Passage, TrainingResult, Watch
from worldsheet.pipeline.schedule import Action, Locked, PipelineSchedule, Unlocked, Waiting, of_packets
from worldsheet.pipeline.stage import Stage, StageState, execute
from worldsheet.pipeline.transport.base import Transport, queues
from worldsheet.pipeline.transport.message import floating
from worldsheet.pipeline.transport.threads import ThreadedTransport, as_they_come
from worldsheet.pipeline.update_rule import MakeOptimizer, MakeScheduler, UpdateRule
from worldsheet.pipeline.weights import DelayCompensated, Weights
from worldsheet.problem import Chain

_PASSIVE = DelayCompensated()


@final
class Pipeline:
    """Unlocked training: stages of consecutive layers, each busy with its own packet, talking to two neighbours only.

    A stage carries a packet up, pulls another's credit back and moves its own parameters after every M credits. There
    is no global backward pass and no flush; the price is that credits answer parameters that have moved meanwhile, as
    `schedule.delay` says. `schedule=Locked(M)` flushes before each update and is training in one process to the last
    bit.

    The update that packets share is that of one batch of all of them: the loss of a packet counts by what it is the
    mean of, which is known of torch's losses (targets that are not ignored, by the weights of their classes; elements)
    and taken to be samples of any other. A loss with `reduction="sum"`, torch's or your own, is summed over packets. An
    update whose packets weigh nothing has efforts of 0, by which only momentum and weight decay still move.

    A parameter that layers of several stages use, as tied embeddings, belongs to the lowest of them, and is late there
    like any other. The stages above are told what it is, beside the first state after each update, and tell what their
    uses ask of it: once per update, or with every packet under `Locked`.

    Cost per packet and stage: one evaluation and one pull-back of its layers, one state up and one credit down.

    Args:
        chain: the layers and the loss; each layer reads the one below.
        stages: how many, or a `Plan`; a number cuts into equal counts of layers.
        optimizer: makes the optimizer of one stage's parameters: `partial(torch.optim.Adam, lr=1e-3)`. It may have
            groups, or be several as one: `ports.Joined`.
        packets_per_update: M, for the default order.
        weights: what packets see of the parameters while they are in flight, and how late gradients are answered.
        schedule: what stages do when; `Unlocked(packets_per_update)` by default.
        messages: what states and credits are rounded to between stages, such as `torch.bfloat16`; None sends them as
            they are.
        weigh: what a packet weighs by its target, where a loss of your own averages over something else than samples:
            `lambda target: (target != -100).sum()`.
        scheduler: makes what moves the rates of one stage's optimizer, a step per update:
            `partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=1000)`. It sees rates as they are without delay.
        clip: how large the efforts of an update may be: `StageNorm(1.0)`, or `GlobalNorm(1.0)`.
        free_running: whether each stage does what it has messages for, instead of what the schedule says next. A stage
            that is late then holds up others less, with no more packets in flight, but the weights depend on the
            moments at which messages come: across processes no two runs are the same.

    Raises:
        InputError: more stages than layers, different parameters over the same memory in two stages, a chain that is
            no path, messages of a dtype that is not floating, or a locked order or tied parameters that are to run
            freely.
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
        weigh: Weigh | None = None,
        scheduler: MakeScheduler | None = None,
        clip: Clip | None = None,
        free_running: bool = False,
    ) -> None:
        self.messages = floating(messages)
        self.schedule = schedule if schedule is not None else Unlocked(packets_per_update)
        self.free_running = free_running
        if free_running and isinstance(self.schedule, Locked):
            raise InputError(
                f"free_running=True cannot go with {self.schedule}, which flushes",
                "an unlocked order",
                "leave out one of the two",
            )
        self.plan = stages if isinstance(stages, Plan) else balanced([1.0] * len(chain), stages)
        self._parts = parts_of(chain, self.plan)
        self._ties = ties_of(self._parts, chain)
        if self._ties and free_running:
            raise InputError(
                f"free_running=True cannot go with {self._ties[0].name!r}, which several stages use",
                "an order that all stages keep",
                "leave out free_running, or cut so that its uses are in one stage",
            )
        count = len(self._parts)
        rule = UpdateRule(optimizer, scheduler, clip)
        self.stages = [
            Stage(
                part,
                chain,
                rule,
                weights,
                delay=self.schedule.delay(index, count),
                index=index,
                stages=count,
                layers=self.plan.layers(index),
                flushes=self.schedule.flushes,
                ties=self._ties,
            )
            for index, part in enumerate(self._parts)
        ]
        self._weights = weights
        self._packet_weights = weights_of(chain.loss, weigh)
        self._passages: dict[int | None, Passage] = {}
        self._warned = False

    def __repr__(self) -> str:
        title = f"Pipeline of {plural(len(self.stages), 'stage')}, {self.schedule}, {self._weights}"
        held = [
            f"  stage {index}: {plural(len(self.plan.layers(index)), 'layer')}" for index in range(len(self.stages))
        ]
        tied = [
            f"  {tie.name}: of stage {tie.owner}, used in {', '.join(map(str, tie.stages[1:]))}" for tie in self._ties
        ]
        return "\n".join([title, *held, *tied])

    def train(self, packets: Packets = (), *, drain: bool = True) -> TrainingResult:
        """Let packets pass through all stages in this process, in turns.

        The actions of each stage are those of `schedule`, so that the weights are, to the last bit, what the same
        stages in processes of their own arrive at. With `drain=False` packets stay in flight, and the next call goes on
        where this one stopped: after any calls, the last of which drains, the weights are those of one call with all
        packets, to the last bit if layers draw no random numbers or calls hold whole updates. The module may be
        evaluated between calls. At most one update, and what is in flight, is read ahead.

        Args:
            packets: pairs (x, target): a list, a generator, a DataLoader.
            drain: whether all packets are answered and the last update is made, however few packets it has.

        Raises:
            InputError: no packets, or something that is not a pair.
            LayerError: a layer or loss that fails on what it receives; what was in flight is let go.
            RelaxationError: a loss or an effort that is not finite; likewise.
        """
        with self._passage(None, None, packets, drain) as passage:
            passage.go_on()
            return passage.close()

    def drain(self) -> TrainingResult:
        """Answer all packets that `train(packets, drain=False)` has left in flight, and make the last update."""
        if None in self._passages:
            return self.train()
        return TrainingResult((), tuple(stage.updates for stage in self.stages))

    def state_dict(self) -> StageState:
        """All that the stages have learned, for `torch.save`: `state["model"]` is the state_dict of the user's module.

        Where stages are in processes of their own, each has the `state_dict` of its own stage, and `merged` puts them
        together.

        Raises:
            InputError: packets are in flight.
        """
        return merged(stage.state_dict() for stage in self.stages)

    def load_state_dict(self, state: Mapping[str, Mapping[Any, Any]]) -> None:
        """Go back to where a state was taken, with as many stages as there were or with another number of them.

        With the same stages training goes on to the same bits; under `Locked` with any. Stages that become later than
        they were begin to look ahead with the next update.

        Raises:
            InputError: a state of something else, or packets in flight.
        """
        for stage in self.stages:
            stage.load_state_dict(state)

    def run_stage(
        self,
        index: int,
        transport: Transport,
        packets: Packets = (),
        watch: Watch | None = None,
        *,
        drain: bool = True,
    ) -> TrainingResult:
        """Let packets pass through one stage, whose neighbours are elsewhere; every process gives the same packets.

        Every process reads its own copy of an iterable; items of a sequence are asked for only by the first stage,
        which looks at x, and by the last, which looks at the target.

        Args:
            index: which stage.
            transport: its edges; the same ones until the pipeline is drained.
            packets: pairs (x, target), cut into calls alike in every process.
            watch: is told each action when it is done.
            drain: as for `train`; the same in every process.

        Raises:
            InputError: a transport whose messages are not those of the pipeline, another transport while packets are in
                flight, or packets that are to stay in flight in a pipeline that runs freely.
            RelaxationError: a loss or an effort of this stage that is not finite; what was in flight is let go.
        """
        if transport.messages != self.messages:
            raise InputError(
                f"the transport has messages={transport.messages}, the pipeline messages={self.messages}",
                "the same for both",
                "make the transport with messages=pipeline.messages",
            )
        with self._passage(index, transport, packets, drain) as passage:
            passage.go_on_elsewhere(watch)
            return passage.close()

    @contextmanager
    def _passage(
        self, index: int | None, transport: Transport | None, packets: Packets, drain: bool
    ) -> Iterator[Passage]:
        """The passage that these packets belong to, which is let go when it has ended or failed."""
        self._refuse(index, transport, drain)
        passage = self._passages.get(index)
        if passage is None:
            passage = self._passages[index] = self._begun(index, transport, packets, drain)
        else:
            passage.packets.feed(packets, more=not drain)
        try:
            passage.begin()
            yield passage
        except BaseException:
            passage.abandon()
            raise
        finally:
            if passage.ended:
                del self._passages[index]
        if passage.ended and index in (None, 0):
            self._warn_of_few(passage.packets.count)

    def _begun(self, index: int | None, transport: Transport | None, packets: Packets, drain: bool) -> Passage:
        """A passage through all stages, or through the one that this process has."""
        stages, last = self.stages, len(self.stages) - 1
        own = range(len(stages)) if index is None else (index,)
        stream = PacketStream(self._packet_weights, self.schedule.packets_per_update, len({0, last} & set(own)))
        stream.feed(packets, more=not drain)
        given, edges = transport, queues(len(stages), self.messages)
        if index is not None and transport is not None:
            transport.open(stream, self.schedule.under_way(len(stages)))
            if self.free_running:
                none = Counted(0)
                transport = ThreadedTransport(
                    transport, none if index == 0 else stream, none if index == last else stream
                )
            edges[index] = transport
        runs = [execute(stages[i], self._actions(i, edges[i], stream), edges[i], stream) for i in own]
        ledger = Ledger([stages[i] for i in own], stream, self.schedule.packets_per_update)
        return Passage([stages[i] for i in own], runs, stream, ledger, transport, given)

    def _actions(self, index: int, transport: Transport, packets: PacketStream) -> Iterator[Action | Waiting]:
        if self.free_running:
            return as_they_come(self.schedule, index, len(self.stages), packets, transport)
        return of_packets(self.schedule.endless(index, len(self.stages)), packets)

    def _refuse(self, index: int | None, transport: Transport | None, drain: bool) -> None:
        """Refuse calls that do not go with what is in flight."""
        if not drain and self.free_running:
            raise InputError(
                "packets cannot stay in flight in a pipeline that runs freely: no two runs stop at the same place",
                "drain=True with free_running=True",
                "give all packets in one call, as a generator; or leave out free_running",
            )
        mixed = any((other is None) != (index is None) for other in self._passages)
        if mixed or (index in self._passages and self._passages[index].given is not transport):
            raise InputError(
                "packets are in flight that came by another method or over another transport",
                "the same method and transport until the pipeline is drained",
                "call pipeline.drain(), or run_stage(index, transport) with the transport of before",
            )

    def _warn_of_few(self, packets: int) -> None:
        """A stage whose credits never get as late as it has been slowed for learns too slowly, and nothing shows it.

        The first packet that the first stage answers w/M updates late, w its lead, is packet w; with fewer than M more
        it has made no update by credits that are all as late as that.
        """
        lead, many = self.schedule.warmup(0, len(self.stages)), self.schedule.packets_per_update
        delay = self.schedule.delay(0, len(self.stages))
        if self._warned or not delay or not self._weights.compensates or packets >= lead + many:
            return
        self._warned = True
        warnings.warn(
            f"the pipeline was drained after {packets} packets, but the first stage is {delay:g} updates late only "
            f"from packet {lead} on: rates and foresight are set for delays that do not occur. Give more packets at "
            "once, from a generator for example; or call train(packets, drain=False) for each batch and drain() at the "
            "end; or use weights=Stashed(), which corrects nothing",
            stacklevel=5,
        )


def merged(states: Iterable[Mapping[str, Mapping[Any, Any]]]) -> StageState:
    """The states of stages, put together to that of the whole pipeline."""
    whole: StageState = {}
    for state in states:
        for kind, part in state.items():
            whole.setdefault(kind, {}).update(part)
    return whole

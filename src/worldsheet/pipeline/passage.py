"""One passage of packets through the stages of this process, which may be given in several calls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from worldsheet.core.errors import InputError
from worldsheet.core.words import plural
from worldsheet.pipeline.ledger import Ledger
from worldsheet.pipeline.packets import PacketStream
from worldsheet.pipeline.schedule import Waiting
from worldsheet.pipeline.stage import Completed, Stage
from worldsheet.pipeline.transport.base import Transport

Watch: TypeAlias = Callable[[Completed], None]
"""Is told what a stage has done, and when."""


@final
@dataclass(frozen=True)
class TrainingResult:
    """What one call left.

    Attributes:
        losses: of each packet that has reached the last stage in this call, in order, as it was then; empty where
            another process has it. NaN for a packet of nothing but padding, if that is what the loss says.
        updates: how often each stage of this process has moved its parameters since it was made.
        weights: what each of these packets weighs.
    """

    losses: tuple[float, ...]
    updates: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def __repr__(self) -> str:
        moved = ", ".join(map(str, self.updates))
        ended = f"loss {self.loss:.4g}, {self.losses[-1]:.4g} at the last" if self.losses else "losses are elsewhere"
        return f"TrainingResult of {plural(len(self.losses), 'packet')}: {ended}\n  updates of each stage: {moved}"

    @property
    def loss(self) -> float:
        """The mean of the losses, each by what its packet weighs; NaN where nothing weighs anything."""
        pairs = [(loss, weight) for loss, weight in zip(self.losses, self.weights, strict=True) if weight]
        total = sum(weight for _, weight in pairs)
        return sum(loss * weight for loss, weight in pairs) / total if total else float("nan")


@final
class Passage:
    """Packets on their way, from an empty pipeline to an empty pipeline.

    Args:
        stages: those of this process, from the first to the last.
        runs: what each of them does, as it does it.
        packets: what passes.
        ledger: losses and efforts.
        transport: the edges of the one stage that this process has, if others are elsewhere.
        given: the same as the user gave them.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        runs: Sequence[Iterator[Completed | Waiting]],
        packets: PacketStream,
        ledger: Ledger,
        transport: Transport | None = None,
        given: Transport | None = None,
    ) -> None:
        self.packets = packets
        self.given = given
        self._transport = transport
        self._stages = stages
        self._runs = list(zip(stages, runs, strict=True))[::-1]
        self._ledger = ledger
        for stage in stages:
            stage.streaming = True

    @property
    def ended(self) -> bool:
        """Whether all packets have been answered."""
        return not self._runs

    def begin(self) -> None:
        """Look at what may have happened between calls.

        Raises:
            InputError: there has been no packet yet.
        """
        for stage in self._stages:
            stage.look_at_weights()
        if not self.packets.has(0):
            raise InputError(
                "there are no packets", "at least one (x, target)", "cut a batch: zip(x.split(8), target.split(8))"
            )

    def go_on(self) -> None:
        """Let the uppermost stage that can move do so, until none can: the order in which layers draw random numbers.

        Raises:
            InputError: a schedule in which stages wait for each other for ever.
        """
        place = 0
        while place < len(self._runs):  # nobody above can move, and of them only the next by what happens here
            place = max(place - 1, 0) if self._has_moved(*self._runs[place]) else place + 1
        if self._runs and not self.packets.is_open:
            raise InputError(
                "the stages wait for each other for ever",
                "a schedule in which every message comes",
                "use Unlocked(), or look at schedule.table(stages, packets)",
            )

    def go_on_elsewhere(self, watch: Watch | None) -> None:
        """Let the one stage of this process move until it needs a packet that is not there yet."""
        assert self._transport is not None
        ((stage, run),) = self._runs
        for done in run:
            if done is Waiting.PACKET:
                return
            if isinstance(done, Completed):
                self._ledger.note(stage, done)
                if watch is not None:
                    watch(done)
            else:
                self._transport.wait()
        self._runs.clear()
        self._transport.close()

    def close(self) -> TrainingResult:
        """What this call left.

        Raises:
            RelaxationError: a loss or an effort that is not finite.
        """
        losses, weights = self._ledger.close()
        for stage in self._stages:
            stage.streaming = not self.ended
        return TrainingResult(losses, tuple(stage.updates for stage in self._stages), weights)

    def abandon(self) -> None:
        """Let go of everything that is in flight."""
        self._runs.clear()
        for stage in self._stages:
            stage.abandon()

    def _has_moved(self, stage: Stage, run: Iterator[Completed | Waiting]) -> bool:
        done = next(run, None)
        if isinstance(done, Completed):
            self._ledger.note(stage, done)
        elif done is None:
            self._runs.remove((stage, run))
        return not isinstance(done, Waiting)

"""Free running: a stage does what it has messages for, in the order in which they come."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, takewhile
from threading import Condition, Thread
from typing import final

import torch

from worldsheet.core.bundle import Parcel
from worldsheet.pipeline.packets import Supply
from worldsheet.pipeline.schedule import Action, ActionType, PipelineSchedule, Waiting
from worldsheet.pipeline.transport.base import Transport


def as_they_come(
    schedule: PipelineSchedule, stage: int, stages: int, packets: Supply, transport: Transport
) -> Iterator[Action | Waiting]:
    """A stage's actions as messages arrive: a credit if one is here, else a packet if one is, else it waits.

    At most `schedule.warmup` + 1 packets are in flight, as under the schedule, so that a credit is never staler than
    `schedule.delay` says, and nobody waits for ever: the last stage always has something to do.
    """
    most, many = schedule.warmup(stage, stages) + 1, schedule.packets_per_update
    first, last = stage == 0, stage == stages - 1
    carried = answered = 0
    while answered < carried or packets.has(carried):
        if answered < carried and (last or transport.credit_here(answered)):
            yield Action(ActionType.PULL, answered)
            answered += 1
            if answered % many == 0 or not packets.has(answered):
                yield Action(ActionType.UPDATE, answered - 1)
        elif carried < answered + most and packets.has(carried) and (first or transport.state_here(carried)):
            yield Action(ActionType.FORWARD, carried)
            carried += 1
        else:
            yield Waiting.MESSAGE


@final
class ThreadedTransport(Transport):
    """Links whose messages a thread for each side receives as they come, so that a stage sees what is here.

    Args:
        inner: the transport that carries them.
        states: the packets whose states come from below.
        credits: the packets whose credits come from above.
    """

    def __init__(self, inner: Transport, states: Supply, credits: Supply) -> None:
        self._inner = inner
        self._states: deque[Parcel] = deque()
        self._credits: deque[Parcel] = deque()
        self._news = Condition()
        self._fresh = False
        self._failure: Exception | None = None
        self._listeners = [
            Thread(target=self._listen, args=(inner.take_state, states, self._states), daemon=True),
            Thread(target=self._listen, args=(inner.take_credit, credits, self._credits), daemon=True),
        ]
        for listener in self._listeners:
            listener.start()

    @property
    def messages(self) -> torch.dtype | None:
        """As those of the inner transport."""
        return self._inner.messages

    def state_here(self, packet: int) -> bool:
        """Whether one has come."""
        return bool(self._states)

    def credit_here(self, packet: int) -> bool:
        """Whether one has come."""
        return bool(self._credits)

    def take_state(self, packet: int) -> Parcel:
        """The one that came first."""
        return self._states.popleft()

    def take_credit(self, packet: int) -> Parcel:
        """The one that came first."""
        return self._credits.popleft()

    def send_state(self, packet: int, state: Parcel) -> None:
        """Through the inner transport."""
        self._inner.send_state(packet, state)

    def send_credit(self, packet: int, credit: Parcel) -> None:
        """Through the inner transport."""
        self._inner.send_credit(packet, credit)

    def wait(self) -> None:
        """Until a message has come since the last time.

        Raises:
            NeighbourError: a neighbour that is gone, silent, or sends what was not agreed.
        """
        with self._news:
            self._news.wait_for(lambda: self._fresh or self._failure is not None)
            fresh, self._fresh = self._fresh, False
        if self._failure is not None and not fresh:
            raise self._failure

    def close(self) -> None:
        """See to it that what was sent has arrived."""
        for listener in self._listeners:
            listener.join()
        self._inner.close()

    def _listen(self, take: Callable[[int], Parcel], packets: Supply, here: deque[Parcel]) -> None:
        try:
            for packet in takewhile(packets.has, count()):
                here.append(take(packet))
                self._tell()
        except Exception as error:  # whatever it is, the stage must know
            with self._news:
                self._failure = error
                self._news.notify()

    def _tell(self) -> None:
        with self._news:
            self._fresh = True
            self._news.notify()

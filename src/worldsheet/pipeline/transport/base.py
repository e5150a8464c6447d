"""What a stage has to its neighbours: a state and a credit per packet, and nobody else."""

from abc import ABC, abstractmethod
from collections import deque
from typing import NamedTuple, final

import torch
from typing_extensions import override

from worldsheet.core.bundle import Parcel
from worldsheet.pipeline.packets import Supply
from worldsheet.pipeline.transport.message import rounded


class Traffic(NamedTuple):
    """What has gone through a stage's edges, both ways.

    Attributes:
        messages: sent by this stage.
        sent: bytes sent by it, headers included.
        waited: seconds that it stood waiting for messages.
    """

    messages: int
    sent: int
    waited: float


class Transport(ABC):
    """The two edges of a stage. Packets and credits come in the order in which they were sent."""

    @property
    @abstractmethod
    def messages(self) -> torch.dtype | None:
        """What numbers travel as; None for what they are."""

    @abstractmethod
    def state_here(self, packet: int) -> bool:
        """Whether the state of this packet can be taken without waiting for another stage in this process."""

    @abstractmethod
    def credit_here(self, packet: int) -> bool:
        """Whether the credit of this packet can be taken likewise."""

    @abstractmethod
    def take_state(self, packet: int) -> Parcel:
        """The state that the stage below sent."""

    @abstractmethod
    def take_credit(self, packet: int) -> Parcel:
        """The credit that the stage above sent."""

    @abstractmethod
    def send_state(self, packet: int, state: Parcel) -> None:
        """Hand a state to the stage above."""

    @abstractmethod
    def send_credit(self, packet: int, credit: Parcel) -> None:
        """Hand a credit to the stage below."""

    def wait(self) -> None:
        """Until something has come that was not here, where others send meanwhile."""
        return

    def open(self, packets: Supply, under_way: int = 1) -> None:
        """Make ready for the messages of these packets, of which the order needs that many under way on an edge."""
        del packets, under_way

    def close(self) -> None:
        """See to it that what was sent has arrived."""
        return


@final
class LocalTransport(Transport):
    """Links between stages of one process.

    Args:
        from_below: states for this stage, each with its packet's number.
        from_above: credits for it.
        to_above: states that it sends.
        to_below: credits that it sends.
        messages: what numbers are rounded to on the way.
    """

    def __init__(
        self,
        from_below: "Queue",
        from_above: "Queue",
        to_above: "Queue",
        to_below: "Queue",
        messages: torch.dtype | None = None,
    ) -> None:
        self._from_below, self._from_above = from_below, from_above
        self._to_above, self._to_below = to_above, to_below
        self._messages = messages

    @property
    @override
    def messages(self) -> torch.dtype | None:
        return self._messages

    def state_here(self, packet: int) -> bool:
        """Whether it is the first of the queue."""
        return _is_next(self._from_below, packet)

    def credit_here(self, packet: int) -> bool:
        """Whether it is the first of the queue."""
        return _is_next(self._from_above, packet)

    def take_state(self, packet: int) -> Parcel:
        """The first of the queue."""
        return self._from_below.popleft()[1]

    def take_credit(self, packet: int) -> Parcel:
        """The first of the queue."""
        return self._from_above.popleft()[1]

    def send_state(self, packet: int, state: Parcel) -> None:
        """The last of the queue."""
        self._to_above.append((packet, rounded(state, self._messages)))

    def send_credit(self, packet: int, credit: Parcel) -> None:
        """The last of the queue."""
        self._to_below.append((packet, rounded(credit, self._messages)))


Queue = deque[tuple[int, Parcel]]
"""States or credits with their packets' numbers, in order."""


def queues(stages: int, messages: torch.dtype | None = None) -> list[Transport]:
    """The transports of all stages of one process, from the first to the last."""
    up: list[Queue] = [deque() for _ in range(stages + 1)]
    down: list[Queue] = [deque() for _ in range(stages + 1)]
    return [LocalTransport(up[s], down[s + 1], up[s + 1], down[s], messages) for s in range(stages)]


def _is_next(queue: Queue, packet: int) -> bool:
    return bool(queue) and queue[0][0] == packet

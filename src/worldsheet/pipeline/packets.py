"""Packets on their way into a pipeline: read as far ahead as a stage needs them, and let go when none does any more."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, TypeAlias, final

from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.pipeline.packet_weights import PacketWeights, Share, Weight

Packets: TypeAlias = Iterable[Any]
"""Micro-batches: pairs (x, target), or lists of two as a DataLoader has them. Items of a sequence are asked for when a
stage needs them: x by the first, the target by the last."""


class Supply(ABC):
    """Which packets there are."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether more packets may come than there are now."""

    @abstractmethod
    def has(self, packet: int) -> bool:
        """Whether there is a packet of that number, counted from 0."""


@final
@dataclass(frozen=True)
class Counted(Supply):
    """A known number of packets.

    Args:
        packets: how many.
    """

    packets: int

    @property
    @override
    def is_open(self) -> bool:
        return False

    @override
    def has(self, packet: int) -> bool:
        return packet < self.packets


@final
class PacketStream(Supply):
    """The packets of one passage, from an empty pipeline to an empty pipeline, in however many calls they are given.

    Threads may ask at the same time; one of them reads.

    Args:
        weights: what packets weigh.
        packets_per_update: M.
        readers: how many stages of this process look into packets: the first at x, the last at the target.
    """

    def __init__(self, weights: PacketWeights, packets_per_update: int, readers: int) -> None:
        self._kind = weights
        self._many = packets_per_update
        self._readers = readers
        self._rest: Iterator[Callable[[], Any]] = iter(())
        self._held: dict[int, _Held] = {}
        self._weights: dict[int, Weight] = {}
        self._shares: dict[int, Share] = {}
        self._count = 0
        self._open = True
        self._lock = RLock()

    def feed(self, packets: Packets, *, more: bool) -> None:
        """Let these follow; `more` says whether others may follow them in another call."""
        with self._lock:
            self._rest, self._open = _items_of(packets), more

    @property
    def count(self) -> int:
        """How many packets have been found so far."""
        return self._count

    @property
    @override
    def is_open(self) -> bool:
        return self._open

    @override
    def has(self, packet: int) -> bool:
        with self._lock:
            while self._count <= packet:
                item = next(self._rest, None)
                if item is None:
                    return False
                if self._readers:
                    self._held[self._count] = _Held(self._count, item, self._readers)
                self._count += 1
        return True

    def has_update_of(self, packet: int) -> bool:
        """Whether all packets of this one's update are known, so that what each weighs among them is known too."""
        return self.has((packet // self._many + 1) * self._many - 1) or not self._open

    def closes_update(self, packet: int) -> bool:
        """Whether a packet is the last of its update, all of which is known."""
        return (packet + 1) % self._many == 0 or not self.has(packet + 1)

    def take(self, packet: int) -> tuple[Any, Any]:
        """A packet for one of its readers; after the last of them it is let go."""
        held = self._held[packet]
        value, held.readers = held.value(), held.readers - 1
        if not held.readers:
            del self._held[packet]
        return value

    def weight(self, packet: int) -> Weight:
        """What a packet weighs that is here, or was here when this was asked for first."""
        if packet not in self._weights:
            self._weights[packet] = self._kind.weight(*self._held[packet].value())
        return self._weights[packet]

    def share(self, packet: int) -> Share:
        """A packet's share of its update, all of which is known; asked for once, in order."""
        if packet not in self._shares:
            first = packet // self._many * self._many
            update = range(first, min(first + self._many, self._count))
            shares = self._kind.shares([self.weight(number) for number in update])
            self._shares = dict(zip(update, shares, strict=True))
        del self._weights[packet]
        return self._shares.pop(packet)

    @property
    def held(self) -> int:
        """How many packets are kept at the moment."""
        return len(self._held)


@final
class _Held:
    """A packet that is made when somebody looks at it for the first time."""

    def __init__(self, number: int, item: Callable[[], Any], readers: int) -> None:
        self.readers = readers
        self._number = number
        self._item: Callable[[], Any] | None = item
        self._value: tuple[Any, Any] | None = None

    def value(self) -> tuple[Any, Any]:
        if self._item is not None:
            self._value, self._item = _pair(self._number, self._item()), None
        assert self._value is not None
        return self._value


def _items_of(packets: Packets) -> Iterator[Callable[[], Any]]:
    """What makes each packet: items of a sequence are not asked for before somebody looks at them."""
    if isinstance(packets, Sequence):
        return (partial(packets.__getitem__, index) for index in range(len(packets)))
    return (partial(_same, packet) for packet in packets)


def _same(packet: Any) -> Any:
    return packet


def _pair(number: int, packet: Any) -> tuple[Any, Any]:
    if not isinstance(packet, (tuple, list)) or len(packet) != 2:
        kind = f"{type(packet).__name__} of length {len(packet)}" if isinstance(packet, (tuple, list)) else None
        raise InputError(
            f"packet {number} must be a pair (x, target), got {'a ' + (kind or type(packet).__name__)}",
            "an iterable of pairs: a list, a generator, a DataLoader",
            "cut a batch into packets: zip(x.split(8), target.split(8)); take the two out of a dict: "
            "((b['x'], b['y']) for b in loader)",
        )
    x, target = packet
    return x, target

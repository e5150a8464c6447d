"""Links across processes: point-to-point messages of `torch.distributed`, to two neighbours and nobody else."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from typing_extensions import override

from worldsheet.core.bundle import Bundle, Parcel
from worldsheet.pipeline.packets import Counted, Supply
from worldsheet.pipeline.segment import Endpoints
from worldsheet.pipeline.transport.base import Traffic, Transport
from worldsheet.pipeline.transport.message import HEADER, Agreement, Header, NeighbourError, floating, packed, unpacked

_CPU = torch.device("cpu")
_NONE = Counted(0)

Meeting: TypeAlias = Store
"""Where processes find each other."""


def backend_of(device: torch.device, *, shared: bool = False) -> str:
    """What carries a stage's messages: gloo between CPUs; NCCL between GPUs, beside gloo for what stages agree on.

    Args:
        device: where the stage's tensors are.
        shared: whether several stages are on it, which NCCL refuses: gloo carries them then, through the host's memory.
    """
    host = dist.get_default_backend_for_device("cpu")
    own = dist.get_default_backend_for_device(device)
    return host if device.type == "cpu" or shared else f"cpu:{host},{device.type}:{own}"


def carrier_of(device: torch.device) -> torch.device:
    """Where messages must be to be sent: in the host's memory if gloo carries them, else on the device."""
    config = dist.get_backend_config()  # "cpu:gloo,cuda:nccl"
    carriers = dict(pair.split(":") for pair in config.split(","))
    return _CPU if carriers.get(device.type) in (None, "gloo") else device


@contextmanager
def joined(rank: int, stages: int, store: str | Meeting, timeout: float, device: torch.device = _CPU) -> Iterator[None]:
    """Be one of the processes of a run for a while.

    Args:
        rank: which stage this process is.
        stages: how many processes there are.
        store: where they meet: `file:///some/new/file` on one machine, an `agents_store` under torchrun.
        timeout: seconds after which a silent neighbour counts as gone.
        device: where the stage's tensors are, which decides what carries them; a GPU without a number is the one with
            the stage's.
    """
    if device.type != "cpu" and device.index is None:
        module = torch.get_device_module(device)
        module.set_device(rank % module.device_count())
    backend = backend_of(device, shared=_is_shared(device, stages, store))
    place = {"init_method": store} if isinstance(store, str) else {"store": store}
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout), world_size=stages, rank=rank, **place)
    except RuntimeError as error:
        raise NeighbourError(
            f"not all of {stages} stages have come to where they meet within {timeout:g} s: {_reason(error)}",
            "as many processes as stages, all of them alive",
            "look at their logs, then start all stages again",
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def _is_shared(device: torch.device, stages: int, store: str | Meeting) -> bool:
    """Whether one machine has more stages than devices; agents of several machines are taken at their word."""
    return device.type != "cpu" and isinstance(store, str) and stages > torch.get_device_module(device).device_count()


def all_agree(yes: bool) -> bool:
    """Whether all processes say yes; each waits for the others, so only where no packet is in flight."""
    vote = torch.tensor([yes], dtype=torch.int64)
    try:
        dist.all_reduce(vote, dist.ReduceOp.MIN)
    except RuntimeError as error:
        raise NeighbourError(
            f"a stage is gone or silent where all write a checkpoint: {_reason(error)}",
            "stages that answer within the group's timeout",
            "look at their logs for the cause; unless it would come again, start all stages from the last checkpoint",
        ) from error
    return bool(vote.item())


def agents_store(address: str, port: int, name: str, timeout: float) -> Meeting:
    """A store of torchrun's agent, which outlives the processes that it starts and replaces.

    Torch itself would let processes that were started again meet under the addresses of those that are gone.

    Args:
        address: of the agent.
        port: of its store.
        name: keeps apart what is kept there under equal keys.
        timeout: seconds to wait for an entry.
    """
    wait = timedelta(seconds=timeout)
    return PrefixStore(name, TCPStore(address, port, is_master=False, timeout=wait, wait_for_workers=False))


def agreed(store: Meeting, key: str, make: Callable[[], str] | None) -> str:
    """A text that one process makes, once, for all processes and for those that replace them.

    Args:
        store: where it is kept.
        key: under which name.
        make: makes it if it is not there; None waits until it is.
    """
    if make is not None and not store.check([key]):
        store.set(key, make())
    found: bytes = store.get(key)
    return found.decode()


@final
class P2PTransport(Transport):
    """Edges to the processes of the stages below and above, one stage per rank of the default group.

    A message is a header (packet number, dtypes, shape) and the numbers, in one send. While a stage computes, the next
    message of each edge is received already: its size is that of the first, which alone comes in two sends, as does
    one that is larger. At most `window` messages per edge are under way; a sender that is further ahead waits, so
    memory is bounded.

    Args:
        stage: this process's stage, which is its rank.
        stages: how many there are.
        device: where tensors are. Where that is no CPU, states and credits travel in groups of their own, so that
            neither waits for the other; all stages must make their wires then. Under gloo, which knows no device but
            the CPU, they travel through the host's memory.
        window: messages under way per edge; more where the order has more.
        messages: what numbers travel as; None for what they are.

    Raises:
        InputError: messages of a dtype that is not floating.
    """

    def __init__(
        self, stage: int, stages: int, device: torch.device, window: int = 4, messages: torch.dtype | None = None
    ) -> None:
        self._messages = floating(messages)
        carrier = carrier_of(device)
        up, down = (None, None) if carrier.type == "cpu" else (dist.new_group(), dist.new_group())
        below = Agreement(f"stage {stage - 1} below", messages)
        above = Agreement(f"stage {stage + 1} above", messages)
        self._below = _Edge(stage - 1, below, device, carrier, window, down, up) if stage else None
        self._above = _Edge(stage + 1, above, device, carrier, window, up, down) if stage < stages - 1 else None

    @property
    @override
    def messages(self) -> torch.dtype | None:
        return self._messages

    @property
    def traffic(self) -> Traffic:
        """Since the wires were made."""
        edges = [edge for edge in (self._below, self._above) if edge is not None]
        return Traffic(sum(e.sent for e in edges), sum(e.bytes for e in edges), sum(e.waited for e in edges))

    def state_here(self, packet: int) -> bool:
        """True: taking it waits."""
        return True

    def credit_here(self, packet: int) -> bool:
        """True: taking it waits."""
        return True

    def take_state(self, packet: int) -> Parcel:
        """Waits for the stage below."""
        return _there(self._below).take(packet)

    def take_credit(self, packet: int) -> Parcel:
        """Waits for the stage above."""
        return _there(self._above).take(packet)

    def send_state(self, packet: int, state: Parcel) -> None:
        """Waits only if the window is full."""
        _there(self._above).send(packet, state)

    def send_credit(self, packet: int, credit: Parcel) -> None:
        """Waits only if the window is full."""
        _there(self._below).send(packet, credit)

    def open(self, packets: Supply, under_way: int = 1) -> None:
        """Begin to receive ahead: a message of each of these packets comes from each side."""
        for edge in (self._below, self._above):
            if edge is not None:
                edge.open(packets, under_way)

    def close(self) -> None:
        """Wait until everything sent has been taken."""
        for edge in (self._below, self._above):
            if edge is not None:
                edge.close()


def place_of(stage: int, stages: int, device: torch.device) -> Endpoints:
    """Where this process, whose rank is its stage, stands in a `worldsheet.pipeline.relax` spread over processes."""
    return Endpoints(stage, P2PTransport(stage, stages, device), P2PTransport(stage, stages, device))


class _Coming(NamedTuple):
    work: Any
    buffer: Tensor


class _Way(NamedTuple):
    packet: int
    works: tuple[Any, ...]
    buffers: tuple[Tensor, ...]


@final
@dataclass
class _Edge:
    """Both directions to one neighbour.

    `supply` says of which packets messages come, so that they are received ahead; then `room` and `room_there` are the
    bytes of numbers for which a buffer waits here and at the neighbour: none until the first message has told its size.
    """

    rank: int
    agreement: Agreement
    device: torch.device
    carrier: torch.device
    window: int
    outward: Any
    inward: Any
    supply: Supply = _NONE
    ahead: bool = False
    room: int = 0
    room_there: int = 0
    coming: _Coming | None = None
    under_way: deque[_Way] = field(default_factory=deque)
    spare: list[Tensor] = field(default_factory=list)
    sent: int = 0
    bytes: int = 0
    waited: float = 0.0

    def open(self, packets: Supply, under_way: int) -> None:
        self.supply, self.ahead, self.room, self.room_there = packets, True, 0, 0
        self.window = max(self.window, under_way)
        self.spare.clear()

    def close(self) -> None:
        self._drain(0)
        self.supply, self.ahead, self.room, self.room_there = _NONE, False, 0, 0

    def send(self, packet: int, parcel: Parcel) -> None:
        self._drain(self.window - 1)
        tensor = packed(parcel, self.agreement.messages) if isinstance(parcel, Bundle) else parcel
        header = Header.of(packet, tensor, self.agreement.messages)
        whole = header.bytes <= self.room_there
        buffer = self.spare.pop() if whole and self.spare else self._buffer(self.room_there if whole else 0)
        header.write(buffer)
        if whole:
            header.numbers(buffer).copy_(tensor)
            parts: tuple[Tensor, ...] = (buffer,)
        else:
            parts = (buffer, tensor.to(self.carrier, header.dtype).contiguous())
            self.room_there = self.room_there or (header.bytes if self.ahead else 0)
        try:
            works = tuple(dist.isend(part, self.rank, self.outward) for part in parts)
        except RuntimeError as error:
            raise self._gone(packet, error) from error
        self.under_way.append(_Way(packet, works, parts))
        self.sent += 1
        self.bytes += sum(part.nbytes for part in parts)

    def take(self, packet: int) -> Parcel:
        begun = perf_counter()
        try:
            _, buffer = coming = self.coming or self._receive(self._buffer(self.room))
            coming.work.wait()
            header = self.agreement.read(packet, buffer)
            if header.bytes <= self.room:
                found = header.numbers(buffer)
            else:
                found = torch.empty(header.shape, dtype=header.dtype, device=self.carrier)
                self._receive(found).work.wait()
                self.room = self.room or (header.bytes if self.ahead else 0)
        except RuntimeError as error:
            raise self._gone(packet, error) from error
        self.waited += perf_counter() - begun
        self.coming = None
        if self.ahead and self.supply.has(packet + 1):
            self.coming = self._receive_ahead(packet + 1)
        return unpacked(found, self.device) if header.is_bundle else found.to(self.device, header.kept)

    def _receive_ahead(self, packet: int) -> _Coming:
        try:
            return self._receive(self._buffer(self.room))
        except RuntimeError as error:
            raise self._gone(packet, error) from error

    def _buffer(self, room: int) -> Tensor:
        return torch.empty(HEADER + room, dtype=torch.uint8, device=self.carrier)

    def _receive(self, place: Tensor) -> _Coming:
        return _Coming(dist.irecv(place, self.rank, self.inward), place)

    def _drain(self, leave: int) -> None:
        while len(self.under_way) > leave:
            packet, works, (buffer, *_) = self.under_way.popleft()
            try:
                for work in works:
                    work.wait()
            except RuntimeError as error:
                raise self._gone(packet, error) from error
            if self.room_there and len(buffer) == HEADER + self.room_there:
                self.spare.append(buffer)

    def _gone(self, packet: int, error: Exception) -> NeighbourError:
        return NeighbourError(
            f"{self.agreement.name} is gone or silent at packet {packet}: {_reason(error)}",
            "a neighbour that answers within the group's timeout",
            "look at its log for the cause; unless it would come again, start all stages from the last checkpoint",
        )


def _reason(error: Exception) -> str:
    """The first sentence of what a backend says."""
    return str(error).splitlines()[0].partition(". ")[0]


def _there(edge: _Edge | None) -> _Edge:
    if edge is None:
        raise LookupError("the first stage has nothing below, the last nothing above")
    return edge

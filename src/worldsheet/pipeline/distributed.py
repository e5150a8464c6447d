"""Links across processes: point-to-point messages of `torch.distributed`, to two neighbours and nobody else."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from worldsheet.core.errors import WorldsheetError
from worldsheet.core.shapes import Costate, State
from worldsheet.pipeline.links import Links

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DIMS = 8
_HEADER = 3 + _DIMS  # packet, dtype, number of dimensions, their sizes

Meeting: TypeAlias = Store
"""Where processes find each other."""


class NeighbourError(WorldsheetError, ConnectionError):
    """A neighbour that is gone, silent, or sends what was not agreed."""


@contextmanager
def joined(rank: int, stages: int, store: str | Meeting, timeout: float, backend: str = "gloo") -> Iterator[None]:
    """Be one of the processes of a run for a while.

    Args:
        rank: which stage this process is.
        stages: how many processes there are.
        store: where they meet: `file:///some/new/file` on one machine, an `agents_store` under torchrun.
        timeout: seconds after which a silent neighbour counts as gone.
        backend: gloo for tensors on CPUs, nccl on GPUs.
    """
    place = {"init_method": store} if isinstance(store, str) else {"store": store}
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout), world_size=stages, rank=rank, **place)
    try:
        yield
    finally:
        dist.destroy_process_group()


def all_agree(yes: bool) -> bool:
    """Whether all processes say yes; each waits for the others, so only where no packet is in flight."""
    vote = torch.tensor([yes], dtype=torch.int64)
    dist.all_reduce(vote, dist.ReduceOp.MIN)
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
class Wires(Links):
    """Edges to the processes of the stages below and above, one stage per rank of the default group.

    A message is a header of integers (packet number, dtype, shape) and the tensor. At most `window` messages per edge
    are under way; a sender that is further ahead waits, so memory is bounded.

    Args:
        stage: this process's stage, which is its rank.
        stages: how many there are.
        device: where tensors are.
        window: messages under way per edge.
    """

    def __init__(self, stage: int, stages: int, device: torch.device, window: int = 4) -> None:
        self._below = _Edge(stage - 1, f"stage {stage - 1} below", device, window) if stage else None
        self._above = _Edge(stage + 1, f"stage {stage + 1} above", device, window) if stage < stages - 1 else None

    def state_here(self, packet: int) -> bool:
        """True: taking it waits."""
        return True

    def credit_here(self, packet: int) -> bool:
        """True: taking it waits."""
        return True

    def take_state(self, packet: int) -> State:
        """Waits for the stage below."""
        return _there(self._below).take(packet)

    def take_credit(self, packet: int) -> Costate:
        """Waits for the stage above."""
        return _there(self._above).take(packet)

    def send_state(self, packet: int, state: State) -> None:
        """Waits only if the window is full."""
        _there(self._above).send(packet, state)

    def send_credit(self, packet: int, credit: Costate) -> None:
        """Waits only if the window is full."""
        _there(self._below).send(packet, credit)

    def close(self) -> None:
        """Wait until everything sent has been taken."""
        for edge in (self._below, self._above):
            if edge is not None:
                edge.drain(0)


@final
@dataclass
class _Edge:
    rank: int
    name: str
    device: torch.device
    window: int
    agreed: tuple[int, ...] | None = None
    under_way: deque[tuple[Any, ...]] = field(default_factory=deque)

    def send(self, packet: int, tensor: Tensor) -> None:
        self.drain(self.window - 1)
        whole = tensor.contiguous()
        header = torch.tensor(_described(packet, whole), dtype=torch.int64, device=self.device)
        try:
            works = dist.isend(header, self.rank), dist.isend(whole, self.rank)
        except RuntimeError as error:
            raise self._gone(packet, error) from error
        self.under_way.append((packet, works, header, whole))

    def take(self, packet: int) -> Tensor:
        header = torch.empty(_HEADER, dtype=torch.int64, device=self.device)
        try:
            dist.recv(header, self.rank)
            self._check(packet, header.tolist())
            _, kind, dims, *sizes = header.tolist()
            found = torch.empty(sizes[:dims], dtype=_DTYPES[kind], device=self.device)
            dist.recv(found, self.rank)
        except RuntimeError as error:
            raise self._gone(packet, error) from error
        return found

    def drain(self, leave: int) -> None:
        while len(self.under_way) > leave:
            packet, works, *_ = self.under_way.popleft()
            try:
                for work in works:
                    work.wait()
            except RuntimeError as error:
                raise self._gone(packet, error) from error

    def _check(self, packet: int, header: list[int]) -> None:
        number, kind, dims, *sizes = header
        what = (kind, dims, *sizes[1:dims])  # batches of packets may differ
        if number != packet or not 0 <= kind < len(_DTYPES) or not 0 <= dims <= _DIMS or min(sizes) < 0:
            raise NeighbourError(
                f"{self.name} sent packet {number} as header {header}",
                f"packet {packet}, in the order in which both stages do their deeds",
                "start all stages with the same order, packets and code",
            )
        if self.agreed is None:
            self.agreed = what
        elif self.agreed != what:
            raise NeighbourError(
                f"{self.name} sent packet {number} with {_told(what)}",
                f"{_told(self.agreed)}, as in its first packet",
                "give packets of one dtype and shape, apart from the number of samples",
            )

    def _gone(self, packet: int, error: Exception) -> NeighbourError:
        return NeighbourError(
            f"{self.name} is gone or silent at packet {packet}: {str(error).splitlines()[0]}",
            "a neighbour that answers within the group's timeout",
            "look at its log, then start all stages again with --resume",
        )


def _described(packet: int, tensor: Tensor) -> list[int]:
    if tensor.dtype not in _DTYPES or tensor.dim() > _DIMS:
        raise NeighbourError(
            f"a state of dtype {tensor.dtype} with {tensor.dim()} dimensions",
            f"one of {', '.join(str(d) for d in _DTYPES)} with at most {_DIMS} dimensions",
            "cut the chain elsewhere",
        )
    return [packet, _DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape, *[0] * (_DIMS - tensor.dim())]


def _told(what: tuple[int, ...]) -> str:
    kind, _, *sizes = what
    return f"{_DTYPES[kind]} samples of shape {tuple(sizes)}"


def _there(edge: _Edge | None) -> _Edge:
    if edge is None:
        raise LookupError("the first stage has nothing below, the last nothing above")
    return edge

"""A message between stages as it travels: sixteen integers that say what it is, then the numbers themselves."""

import json
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from worldsheet.core.bundle import Bundle, Parcel
from worldsheet.core.errors import InputError, WorldsheetError

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""What numbers can travel as."""

HEADER = 128
"""Bytes before the numbers: sixteen integers, which leaves the numbers as well aligned as the buffer."""

_ALIGNED = 16
"""Where a tensor in a bundle may begin, which suits every dtype."""

_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *FLOATING,
        torch.complex64,
        torch.complex128,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    )
}

_KINDS = (*FLOATING, torch.uint8)
"""What stands in headers: bytes are a bundle."""

_INTEGERS = HEADER // 8
_DIMS = _INTEGERS - 4


class NeighbourError(WorldsheetError, ConnectionError):
    """A neighbour that is gone, silent, or sends what was not agreed."""


def floating(messages: torch.dtype | None) -> torch.dtype | None:
    """A dtype that messages can be rounded to; None, for messages as exact as the states, is let through.

    Raises:
        InputError: any other.
    """
    if messages is not None and messages not in FLOATING:
        raise InputError(
            f"messages must be of a floating dtype that can travel, got {messages}",
            f"None for exact ones, or one of {', '.join(str(dtype) for dtype in FLOATING)}",
            "use torch.bfloat16: half the bytes of float32 and its range",
        )
    return messages


def rounded(parcel: Parcel, messages: torch.dtype | None) -> Parcel:
    """What arrives of numbers that travel as `messages`, without a journey."""
    if messages is None:
        return parcel
    if isinstance(parcel, Bundle):
        return parcel.map(lambda leaf: leaf.to(messages).to(leaf.dtype))
    return parcel.to(messages).to(parcel.dtype)


def packed(bundle: Bundle, messages: torch.dtype | None) -> Tensor:
    """A bundle as bytes: how long its description is, the description, and the numbers of each of its tensors."""
    sent = [leaf.to(messages) if messages and leaf.is_floating_point() else leaf for leaf in bundle.leaves]
    described = {
        "form": bundle.form,
        "wanted": bundle.wanted,
        "leaves": [(_name(a), _name(b), tuple(b.shape)) for a, b in zip(sent, bundle.leaves, strict=True)],
    }
    text = json.dumps(described).encode()
    parts = [_bytes(torch.tensor([len(text)])), _bytes(torch.tensor(list(text), dtype=torch.uint8))]
    parts += [_bytes(leaf.detach().contiguous()) for leaf in sent]
    return torch.cat([part.to(parts[-1].device) for part in parts])


def unpacked(buffer: Tensor, device: torch.device) -> Bundle:
    """The bundle that `packed` made bytes of."""
    length = int(buffer[:_ALIGNED].view(torch.int64)[0])
    at = _ALIGNED + _padded(length)
    described = json.loads(bytes(buffer[_ALIGNED : _ALIGNED + length].tolist()))
    leaves: list[Tensor] = []
    for travelled, kept, shape in described["leaves"]:
        dtype = _DTYPES[travelled]
        size = prod(shape) * dtype.itemsize
        leaf = buffer[at : at + size].view(dtype).view(shape)
        leaves.append(leaf.to(device, _DTYPES[kept]))
        at += _padded(size)
    return Bundle(tuple(leaves), tuple(described["wanted"]), described["form"])


def _name(tensor: Tensor) -> str:
    """Of its dtype.

    Raises:
        InputError: one that cannot travel.
    """
    name = str(tensor.dtype)
    if name not in _DTYPES or tensor.layout is not torch.strided:
        raise InputError(
            f"a tensor of dtype {name} and layout {tensor.layout} cannot travel",
            f"dense tensors of {', '.join(_DTYPES)}",
            "convert it in the layer that returns it, or cut the chain elsewhere",
        )
    return name


def _bytes(tensor: Tensor) -> Tensor:
    """As bytes, up to where the next tensor may begin."""
    found = tensor.reshape(-1).view(torch.uint8)
    return torch.nn.functional.pad(found, (0, _padded(len(found)) - len(found)))


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


@final
@dataclass(frozen=True)
class Header:
    """What a message says of itself.

    Attributes:
        packet: its number.
        dtype: what the numbers travel as.
        kept: what they are at both ends.
        shape: of the tensor, the batch first.
    """

    packet: int
    dtype: torch.dtype
    kept: torch.dtype
    shape: tuple[int, ...]

    @staticmethod
    def of(packet: int, tensor: Tensor, messages: torch.dtype | None) -> "Header":
        """The header of a tensor.

        Raises:
            InputError: one that cannot travel.
        """
        if tensor.dtype not in _KINDS or tensor.dim() > _DIMS:
            raise InputError(
                f"a state of dtype {tensor.dtype} with {tensor.dim()} dimensions cannot travel",
                f"one of {', '.join(str(dtype) for dtype in FLOATING)} with at most {_DIMS} dimensions",
                "cut the chain elsewhere",
            )
        travels = tensor.dtype if tensor.dtype is torch.uint8 else messages or tensor.dtype
        return Header(packet, travels, tensor.dtype, tuple(tensor.shape))

    @staticmethod
    def read(buffer: Tensor) -> "Header | None":
        """What stands at the beginning of a buffer; None if that is no header."""
        packet, dtype, kept, dims, *sizes = buffer[:HEADER].view(torch.int64).tolist()
        known = range(len(_KINDS))
        if packet < 0 or dtype not in known or kept not in known or not 0 <= dims <= _DIMS or min(sizes) < 0:
            return None
        return Header(packet, _KINDS[dtype], _KINDS[kept], tuple(sizes[:dims]))

    def write(self, buffer: Tensor) -> None:
        """Put it at the beginning of a buffer."""
        codes = _KINDS.index(self.dtype), _KINDS.index(self.kept)
        integers = [self.packet, *codes, len(self.shape), *self.shape, *[0] * (_DIMS - len(self.shape))]
        buffer[:HEADER].view(torch.int64).copy_(torch.tensor(integers), non_blocking=True)

    @property
    def is_bundle(self) -> bool:
        """Whether its numbers are the bytes of several tensors."""
        return self.kept is torch.uint8

    @property
    def bytes(self) -> int:
        """That the numbers take."""
        return prod(self.shape) * self.dtype.itemsize

    def numbers(self, buffer: Tensor) -> Tensor:
        """The place of the numbers in a buffer, behind the header."""
        return buffer[HEADER : HEADER + self.bytes].view(self.dtype).view(self.shape)

    def same_kind(self, other: "Header") -> bool:
        """Whether both are samples of one shape and dtype; their batches may differ."""
        mine, others = (self.dtype, self.kept, len(self.shape)), (other.dtype, other.kept, len(other.shape))
        return mine == others and self.shape[1:] == other.shape[1:]

    def __str__(self) -> str:
        travelled = "" if self.dtype == self.kept else f" that travel as {self.dtype}"
        return f"{self.kept} samples of shape {self.shape[1:]}{travelled}"


@final
class Agreement:
    """What a stage accepts from a neighbour.

    Args:
        name: of the neighbour, for messages to the user.
        messages: what numbers travel as; None for what they are.
    """

    def __init__(self, name: str, messages: torch.dtype | None) -> None:
        self.name = name
        self.messages = messages
        self._first: Header | None = None

    def read(self, packet: int, buffer: Tensor) -> Header:
        """The header of a message that has come.

        Raises:
            NeighbourError: another packet than `packet`, or other samples than in the first message.
        """
        header = Header.read(buffer)
        if header is None or header.packet != packet:
            what = "what is no message" if header is None else f"packet {header.packet}"
            raise NeighbourError(
                f"{self.name} sent {what} where packet {packet} comes",
                f"packet {packet}, in the order in which both stages do their actions",
                "start all stages with the same order, packets and code",
            )
        if header.is_bundle:  # says itself what is in it, and may be of stages that agree on something
            return header
        if header.dtype != (self.messages or header.kept):
            raise NeighbourError(
                f"{self.name} sent packet {packet} as {header.dtype}",
                f"messages of {self.messages}" if self.messages else f"exact messages, of {header.kept}",
                "start all stages with the same messages",
            )
        self._first = self._first or header
        if not header.same_kind(self._first):
            raise NeighbourError(
                f"{self.name} sent packet {packet} with {header}",
                f"{self._first}, as in its first packet",
                "give packets of one dtype and shape, apart from the number of samples",
            )
        return header

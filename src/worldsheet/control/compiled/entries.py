"""What each entry of an array is, as an expression in C, and loops over entries."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

Shape: TypeAlias = tuple[int, ...]


class Tree(ABC):
    """What an entry is; the same for all entries of an array but for where it reads. Every concrete kind is final."""

    @property
    def length(self) -> int:
        """How many operations it takes."""
        return 0

    def reads(self) -> Iterator["Read"]:
        """What it reads."""
        return iter(())

    def mapped(self, change: Callable[["Read"], "Tree"]) -> "Tree":
        """With other reads."""
        del change
        return self

    @abstractmethod
    def text(self, places: Mapping["Read", str]) -> str:
        """Itself in C, where reads are at these places."""


@final
@dataclass(frozen=True)
class Read(Tree):
    """Entries of a buffer."""

    buffer: int
    strides: Shape
    offset: int

    @override
    def reads(self) -> Iterator["Read"]:
        yield self

    @override
    def mapped(self, change: Callable[["Read"], Tree]) -> Tree:
        return change(self)

    @override
    def text(self, places: Mapping["Read", str]) -> str:
        return places[self]


@final
@dataclass(frozen=True)
class Number(Tree):
    """The same number everywhere."""

    written: str

    @staticmethod
    def like(value: Any, like: Tensor) -> "Number":
        """A number among those of a tensor."""
        if isinstance(value, bool) or (like.dtype in {torch.bool, torch.int64} and isinstance(value, int)):
            return Number(str(int(value)))
        return Number(f"(REAL){float(value)!r}".replace("inf", "INFINITY").replace("nan", "NAN"))

    @override
    def text(self, places: Mapping[Read, str]) -> str:
        return self.written


@final
@dataclass(frozen=True)
class Apply(Tree):
    """An operation on entries, as C with its parts' places."""

    form: str
    parts: tuple[Tree, ...]

    @property
    @override
    def length(self) -> int:
        return 1 + sum(part.length for part in self.parts)

    @override
    def reads(self) -> Iterator[Read]:
        for part in self.parts:
            yield from part.reads()

    @override
    def mapped(self, change: Callable[[Read], Tree]) -> Tree:
        return Apply(self.form, tuple(part.mapped(change) for part in self.parts))

    @override
    def text(self, places: Mapping[Read, str]) -> str:
        return self.form.format(*(part.text(places) for part in self.parts))


@final
@dataclass(frozen=True)
class Value:
    """An array as what each of its entries is."""

    tree: Tree
    shape: Shape

    def spread(self, wanted: Shape) -> Tree:
        """As it is broadcast."""
        if self.shape == wanted:
            return self.tree
        more = len(wanted) - len(self.shape)

        def spread(read: Read) -> Read:
            same = zip(read.strides, self.shape, wanted[more:], strict=True)
            strides = tuple(0 if size != all_ else by for by, size, all_ in same)
            return Read(read.buffer, (0,) * more + strides, read.offset)

        return self.tree.mapped(spread)


def contiguous(shape: Sequence[int]) -> Shape:
    """Strides of entries one after the other."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def nested(shape: Shape, reads: Sequence[Read], letter: str = "i") -> tuple[str | None, list[str]]:
    """Loops over a shape, neighbouring dimensions as one where possible, and the places of reads; None for nothing."""
    if not prod(shape):
        return None, ["" for _ in reads]
    dims: list[tuple[int, Shape]] = []
    for size, *steps in zip(shape, *(read.strides for read in reads), strict=True):
        if size == 1:
            continue
        if dims and all(before == size * step for before, step in zip(dims[-1][1], steps, strict=True)):
            dims[-1] = (dims[-1][0] * size, tuple(steps))
        else:
            dims.append((size, tuple(steps)))
    loops = [f"for (long {letter}{d} = 0; {letter}{d} < {size}; {letter}{d}++) " for d, (size, _) in enumerate(dims)]
    if loops:
        loops[-1] = f"\n#pragma GCC ivdep\n{loops[-1]}"
    places = []
    for number, read in enumerate(reads):
        terms = [f"{letter}{d} * {steps[number]}" for d, (_, steps) in enumerate(dims) if steps[number]]
        places.append(f"a{read.buffer}[{' + '.join([str(read.offset), *terms])}]")
    return "".join(loops), places


def inside(place: str) -> str:
    """The position of a place in its buffer."""
    return place[place.index("[") + 1 : -1]

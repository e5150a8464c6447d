"""Machine code that is called with tensors, or by other machine code."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from worldsheet.control.compiled.constants import Constants
from worldsheet.control.compiled.entries import Shape


@final
@dataclass(frozen=True)
class Argument:
    """An array as other code sees it.

    Attributes:
        pointer: to its first entry, in C.
        shape: of it.
        strides: of it, in entries.
    """

    pointer: str
    shape: Shape
    strides: Shape


class Callee(ABC):
    """Code for a function from tensors to tensors, in a library that stays loaded."""

    @property
    @abstractmethod
    def constants(self) -> Constants:
        """What the function closes over."""

    @property
    @abstractmethod
    def address(self) -> int:
        """Where it lies in this process."""

    @abstractmethod
    def reads(self, shape: Shape, strides: Shape) -> bool:
        """Whether it reads an array that lies like that; else it wants a contiguous one."""

    @abstractmethod
    def text(self, address: str, given: Sequence[Argument], made: Sequence[str]) -> str:
        """The call in C, of what lies at an address, with arrays and pointers to what is to be made."""

    @abstractmethod
    def __call__(self, *given: Tensor) -> list[Tensor]:
        """The function."""


def follows(shape: Shape, strides: Shape) -> bool:
    """Whether entries lie one after the other."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True

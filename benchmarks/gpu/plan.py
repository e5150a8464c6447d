"""Parts of a run, what each of them measures, and on what."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, final

import torch

Figures: TypeAlias = Mapping[str, float | str]
"""What was found, by name."""

T = TypeVar("T")


class NotHereError(Exception):
    """What a machine or a version cannot do, said in a sentence."""


class UnfinishedError(Exception):
    """What has been saved on the way and goes on in the next run."""


@final
@dataclass(frozen=True)
class Plan:
    """Where a part runs and at what size.

    Attributes:
        device: of the tensors.
        toy: a size at which a CPU runs every part in seconds.
        data: folders in which images are looked for.
        out: folder of the results.
        deadline: when the part has to end, by `time.monotonic`.
    """

    device: torch.device
    toy: bool
    data: tuple[Path, ...]
    out: Path
    deadline: float

    def sized(self, full: T, toy: T) -> T:
        """The one or the other."""
        return toy if self.toy else full


class Item(NamedTuple):
    """One thing to measure; it is kept as soon as it is found.

    Where the figures have an `error` and what is `allowed`, the item is right or wrong.
    """

    name: str
    measure: Callable[[], Figures]


class Part(ABC):
    """Some items that belong together."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of its file and its rows."""

    @property
    @abstractmethod
    def seconds(self) -> float:
        """How long it may take on a GPU."""

    @abstractmethod
    def items(self, plan: Plan) -> Sequence[Item]:
        """What it measures, in order of value."""


def with_loss(error: float, allowed: float, **more: float | str) -> Figures:
    """An error beside what is allowed."""
    return {"error": error, "allowed": allowed, **more}

"""How large the efforts of one update may be."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.nn.utils import clip_grads_with_norm_
from typing_extensions import override

from worldsheet.core.errors import InputError


class Norms(NamedTuple):
    """Norms of efforts, an entry per parameter that has one, from the input's side to the output's.

    Attributes:
        below: of the stages below, as they told it last; None for nothing.
        own: of this stage.
        above: of the stages above, as they told it last.
    """

    below: Tensor | None = None
    own: Tensor | None = None
    above: Tensor | None = None


@dataclass(frozen=True)
class Clip(ABC):
    """What efforts are multiplied with before a stage answers them. Every concrete kind is final.

    Args:
        max_norm: what the norm may be.

    Raises:
        InputError: a number that is not positive.
    """

    max_norm: float

    def __post_init__(self) -> None:
        """Refuse what would turn efforts round, or end them."""
        if not (isfinite(self.max_norm) and self.max_norm > 0):
            raise InputError(
                f"max_norm must be a positive finite number, got {self.max_norm}",
                "the largest norm of efforts that is let through as it is",
                "use 1.0, or leave clip out",
            )

    @property
    @abstractmethod
    def is_global(self) -> bool:
        """Whether the other stages' norms count, which then travel with states and credits."""

    def apply(self, parameters: Sequence[Parameter], norms: Norms) -> None:
        """Scale the efforts in place."""
        known = beside(*norms) if self.is_global else norms.own
        if known is not None:
            clip_grads_with_norm_(parameters, self.max_norm, torch.linalg.vector_norm(known))


@final
@dataclass(frozen=True)
class StageNorm(Clip):
    """Each stage by the norm of its own efforts, as `torch.nn.utils.clip_grad_norm_` of its parameters."""

    @property
    @override
    def is_global(self) -> bool:
        return False


@final
@dataclass(frozen=True)
class GlobalNorm(Clip):
    """All stages by the norm of the efforts of the whole network, as `torch.nn.utils.clip_grad_norm_` has it.

    Under `Locked` it is that norm to the last bit: before an update stages tell each other their norms, down and up the
    chain once, while no packet is in flight. Under `Unlocked` nobody waits: a stage's own norm is that of this update,
    and those of the others are the newest that have come along with states and credits, of the last update from the
    stages above, and of one or, with M smaller than the distance, more updates ago from those below. Before any has
    come a stage knows its own alone.
    """

    @property
    @override
    def is_global(self) -> bool:
        return True


def norms_of(parameters: Sequence[Parameter]) -> Tensor | None:
    """The norm of each effort; None if there is none."""
    norms = [torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    return torch.stack([norm.to(norms[0].device) for norm in norms]) if norms else None


def beside(*parts: Tensor | None) -> Tensor | None:
    """Norms of several stages in one."""
    there = [part for part in parts if part is not None and len(part)]
    return torch.cat([part.to(there[0].device) for part in there]) if there else None  # in the widest of their dtypes

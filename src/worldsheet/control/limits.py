"""Path constraints with what is asked of them: from which stage on, and at what price they may be exceeded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError


@final
@dataclass(frozen=True)
class Price:
    """What it costs to exceed a limit by e: linear · e + quadratic · e²/2.

    Like a running cost it counts per unit of time, with `Discrete()` per stage. A linear price above what the limit is
    worth, its multiplier over dt, is exact: the limit is kept wherever it can be. A quadratic price alone lets it be
    exceeded a little.

    Args:
        linear: per unit of excess.
        quadratic: per unit of excess squared, twice.

    Raises:
        InputError: a negative price, or none.
    """

    linear: float = 0.0
    quadratic: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would reward an excess."""
        both = (self.linear, self.quadratic)
        if not all(isfinite(part) and part >= 0 for part in both) or not any(both):
            raise InputError(
                f"Price: linear and quadratic must not be negative, and one of them above 0, got {self.linear} and "
                f"{self.quadratic}",
                "finite costs per unit of excess",
                "use Price(linear=1e3), or leave the price out for a limit that must be kept",
            )


@final
@dataclass(frozen=True)
class PathLimit:
    """c(x, u, t) ≤ 0, wherever a path constraint is taken.

    Args:
        function: c, (x, u, t) → (..., p).
        first: the first stage at which it is asked, a number for all rows or one for each. 1 where the initial state is
            measured, since nothing can be done about what is there already.
        price: of exceeding it, which makes it soft; None where it must be kept. A `History` shows by how much it is
            exceeded as further controls.

    Raises:
        InputError: a negative stage.
    """

    function: Callable[..., Tensor]
    first: int | tuple[int, ...] = 0
    price: Price | None = None

    def __post_init__(self) -> None:
        """Refuse stages before the first."""
        if not isinstance(self.first, int):
            object.__setattr__(self, "first", tuple(self.first))
        if min((self.first,) if isinstance(self.first, int) else self.first, default=0) < 0:
            raise InputError(
                f"PathLimit: first must not be negative, got {self.first}",
                "the number of a stage, 0 or more",
                "use first=1 where the initial state is measured",
            )

    def __call__(self, *arguments: Tensor) -> Tensor:
        """c."""
        return self.function(*arguments)

    def firsts(self, rows: int) -> list[int]:
        """The first stage of each row.

        Raises:
            InputError: another number of rows than the function has.
        """
        if isinstance(self.first, int):
            return [self.first] * rows
        if len(self.first) != rows:
            raise InputError(
                f"PathLimit: first has {len(self.first)} entries for {rows} rows",
                "one number, or one for each row",
                f"give {rows} of them",
            )
        return list(self.first)


@final
@dataclass(frozen=True)
class PathLimits:
    """Several limits as one path constraint, their rows one after the other.

    Args:
        limits: each a function c(x, u, t) → (..., p), or a `PathLimit`.
    """

    limits: tuple[PathLimit, ...]

    def __init__(self, *limits: Callable[..., Tensor]) -> None:
        object.__setattr__(self, "limits", tuple(limit for each in limits for limit in limits_of(each)))

    def __call__(self, *arguments: Tensor) -> Tensor:
        """All of their rows."""
        return torch.cat([limit(*arguments) for limit in self.limits], -1)


def limits_of(constraint: Callable[..., Tensor] | None) -> tuple[PathLimit, ...]:
    """A path constraint as limits; a bare function is one that must be kept from the start."""
    if constraint is None:
        return ()
    if isinstance(constraint, PathLimits):
        return constraint.limits
    return (constraint if isinstance(constraint, PathLimit) else PathLimit(constraint),)


def joined(limits: Sequence[PathLimit]) -> Callable[..., Tensor] | None:
    """Limits as a path constraint."""
    return PathLimits(*limits) if limits else None

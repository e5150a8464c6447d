"""What constraints are worth."""

from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True)
class Multipliers:
    """What it is worth to loosen a constraint a little, in cost per unit of the constraint.

    Attributes:
        inequality: of path constraints, then of finite upper bounds, then of finite lower ones, (..., N, p); none is
            negative.
        terminal: of terminal constraints, (..., k).
    """

    inequality: Tensor
    terminal: Tensor

"""What constraints are worth."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from worldsheet.core.words import shape_of


@final
@dataclass(frozen=True)
class Multipliers:
    """What it is worth to loosen a constraint a little, in cost per unit of the constraint.

    Attributes:
        inequality: of path constraints, of terminal inequalities at the last stage, of finite upper bounds and of
            finite lower ones, in this order, (..., N, p); none is negative.
        terminal: of terminal constraints, (..., k).
    """

    inequality: Tensor
    terminal: Tensor

    def __repr__(self) -> str:
        return f"Multipliers of inequalities {shape_of(self.inequality)} and of the end {shape_of(self.terminal)}"

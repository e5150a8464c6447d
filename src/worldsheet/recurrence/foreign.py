"""A cell that somebody else wrote, differentiated row by row; and cells that are linear in their state."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.layers.evaluation import Recorded
from worldsheet.layers.layer import ModuleInfo
from worldsheet.recurrence.cells import Cell
from worldsheet.recurrence.types import Diagonals, Inputs, Jacobians, Rows

_ALONE = ModuleInfo(parameters=(), buffers=False, random=False, foreign=True, watched=False, steps=None, mappable=None)


@final
class ForeignCell(Cell):
    """f as any function of rows; its Jacobians by n pull-backs, each for all rows at once.

    Args:
        function: called with inputs (rows, k) and states (rows, n), returns the new states.
        size: n.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], object], size: int) -> None:
        self.function = function
        self.size = size

    def step(self, state: Rows, drive: Inputs) -> Rows:
        """f, called with all rows in one dimension."""
        flat = state.reshape(-1, self.size)
        made = self.function(drive.reshape(len(flat), -1), flat)
        if not isinstance(made, Tensor) or made.shape != flat.shape:
            got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"type {type(made).__name__}"
            raise InputError(
                f"Recurrent: the cell returned {got} for states of shape {tuple(flat.shape)}",
                "a cell called as cell(input, state) that returns the new state, in the shape of the old",
                "return the state alone, and read outputs from it with a layer after the recurrence",
            )
        return made.reshape(state.shape)

    def linearized(self, state: Rows, drive: Inputs) -> tuple[Rows, Jacobians]:
        """f and ∂f/∂h, a row at a time."""
        at = self._recorded(state, drive)
        rows = []
        for index in range(self.size):
            unit = torch.zeros_like(at.output)
            unit[..., index] = 1
            (row,) = at.pull(unit, effort=False, keep=index + 1 < self.size).inputs
            rows.append(torch.zeros_like(state) if row is None else row)
        value = at.output if not at.emptied else self.step(state, drive)
        return value, torch.stack(rows, -2)

    def pulled(self, state: Rows, drive: Inputs, costate: Rows) -> Rows:
        """(∂f/∂h)ᵀ λ."""
        (found,) = self._recorded(state, drive).pull(costate, effort=False, keep=False).inputs
        return torch.zeros_like(state) if found is None else found

    def _recorded(self, state: Rows, drive: Inputs) -> Recorded:
        return Recorded(lambda h: self.step(h, drive), [state], [True], _ALONE)


class LinearCell(ABC):
    """A cell that is linear in its state, entry by entry: h⁺ = a(x) h + b(x). One scan gives all states.

    To be inherited by a module, beside `nn.Module`: minimal gated units, linear recurrent units, leaky integrators.
    Complex a and b are welcome.
    """

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, (..., n), for inputs (..., k)."""


@final
class LinearMap(Cell):
    """h⁺ = a h + b, with the drive (a, b) side by side.

    Args:
        size: n.
    """

    diagonal_is_all = True

    def __init__(self, size: int) -> None:
        self.size = size

    def step(self, state: Rows, drive: Inputs) -> Rows:
        """One product and one sum."""
        kept, added = drive.chunk(2, -1)
        return torch.addcmul(added, kept, state)

    def linearized(self, state: Rows, drive: Inputs) -> tuple[Rows, Jacobians]:
        """A diagonal matrix."""
        return self.step(state, drive), torch.diag_embed(drive[..., : self.size])

    @override
    def diagonal(self, state: Rows, drive: Inputs) -> tuple[Rows, Diagonals]:
        return self.step(state, drive), drive[..., : self.size]

    def pulled(self, state: Rows, drive: Inputs, costate: Rows) -> Rows:
        """ā λ: torch's covectors are conjugates."""
        del state
        return drive[..., : self.size].conj() * costate

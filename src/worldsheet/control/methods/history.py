"""What a search reports of one problem while it runs: the horizon × tick plane."""

from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError


@final
class History:
    """States, costates and residuals of one problem of a batch, taken at tick 0 and after every `every`-th tick.

    Args:
        every: ticks between rows, at least 1.
        element: which problem of the flattened batch.

    Raises:
        InputError: `every` below 1, a negative element.
    """

    def __init__(self, every: int = 1, element: int = 0) -> None:
        if every < 1 or element < 0:
            raise InputError(
                f"History: every must be at least 1 and element at least 0, got every={every}, element={element}",
                "whole numbers of ticks and of a problem in the batch",
                "use History()",
            )
        self.every = every
        self.element = element
        self.ticks: list[int] = []
        self._rows: list[tuple[Tensor, ...]] = []

    def add(self, tick: int, moving: Tensor, *fields: Tensor) -> None:
        """Append a row of (states, costates, controls, state residuals, costate residuals), all (B, ...).

        `moving` says which problem of the batch each entry of the fields is.
        """
        place = (moving == self.element).nonzero().flatten()
        if tick % self.every == 0 and len(place):
            self.ticks.append(tick)
            self._rows.append(tuple(field[place[0]].detach().cpu() for field in fields))

    @property
    def states(self) -> Tensor:
        """x_k at every recorded tick, (ticks, N + 1, n)."""
        return self._column(0)

    @property
    def costates(self) -> Tensor:
        """λ_k, (ticks, N + 1, n)."""
        return self._column(1)

    @property
    def controls(self) -> Tensor:
        """u_k, (ticks, N, m)."""
        return self._column(2)

    @property
    def state_residuals(self) -> Tensor:
        """F_{k-1} − x_k for k = 1..N, (ticks, N, n)."""
        return self._column(3)

    @property
    def costate_residuals(self) -> Tensor:
        """H_x − λ_k for k = 1..N, at the end φ_x − λ_N, (ticks, N, n)."""
        return self._column(4)

    def _column(self, number: int) -> Tensor:
        return torch.stack([row[number] for row in self._rows])

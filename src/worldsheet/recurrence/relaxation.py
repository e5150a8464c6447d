"""A relaxation in time as one operation of autograd: one evaluation of all steps, whose credit is scanned back."""

from dataclasses import dataclass
from typing import Any, final

import torch

from worldsheet.recurrence.cells import Cell
from worldsheet.recurrence.newton import Linearization, relax_costates, relax_costates_by_diagonals
from worldsheet.recurrence.once import refuse_second_derivative
from worldsheet.recurrence.types import Drive, States, Step

_MORE = 4  # as many iterations for costates as for states, which begin nearer


@final
@dataclass(frozen=True)
class Relaxed:
    """States that are known, and the cell that they are known of.

    Attributes:
        cell: f.
        drive: u, detached.
        start: the state before the first step, detached.
        states: h_t.
        how: what stood for the Jacobians.
    """

    cell: Cell
    drive: Drive
    start: Step
    states: States
    how: Linearization

    def costates(self, credit: States) -> States:
        """λ_t of a credit g_t, by one reverse scan or, with diagonals, by a few."""
        known = self.cell, self.drive, self.start, self.states, credit
        if not self.how.diagonal:
            return relax_costates(*known, self.how.window)[0]
        found = relax_costates_by_diagonals(*known, _MORE * self.how.iterations)
        return relax_costates(*known, self.how.window)[0] if found is None else found[0]


def differentiable(cell: Cell, drive: Drive, start: Step, relaxed: Relaxed) -> States:
    """f(h_{t−1}, u_t) for all t at once, recorded by autograd as one evaluation on T·B rows.

    What arrives at it is turned into costates, so that parameters, drive and start get their efforts from it as any
    layer's parameters do; nothing passes from step to step in the graph.
    """
    before = torch.cat((start[None], relaxed.states[:-1]))
    value = cell.step(before, drive)
    made: States = _Costates.apply(value, relaxed)  # type: ignore[no-untyped-call]  # as torch leaves it
    return made


@final
class _Costates(torch.autograd.Function):
    """The identity, and on the way back the reverse scan."""

    @staticmethod
    def forward(ctx: Any, value: States, relaxed: Relaxed) -> States:
        ctx.relaxed = relaxed
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, credit: States) -> tuple[States, None]:
        refuse_second_derivative()
        return ctx.relaxed.costates(credit), None

"""Relaxation in time: states of a recurrence by Newton and a scan, costates by one reverse scan, or loops in C."""

from worldsheet.recurrence.bidiagonal import growth_exponent, solve_bidiagonal, solve_transposed
from worldsheet.recurrence.costs import Costs, Method, Work
from worldsheet.recurrence.foreign import LinearCell

__all__ = ["Costs", "LinearCell", "Method", "Work", "growth_exponent", "solve_bidiagonal", "solve_transposed"]

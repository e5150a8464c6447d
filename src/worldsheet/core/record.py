"""What a relaxation reports of itself while it runs: the worldsheet as two depth × tick pictures."""

import torch

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState, Residuals, Worldsheet
from worldsheet.core.words import plural


class Record:
    """Residual norms of every site, taken at tick 0 and after every `every`-th tick.

    Row k of `state_residuals` holds ‖r_l‖ = ‖f_l(x_{l-1}) − x_l‖ (2) for l = 1..L at tick `ticks[k]`, and the same row
    of `costate_residuals` holds ‖g_l‖ = ‖J_{l+1}ᵀλ_{l+1} − λ_l‖ (3). Watching costs one evaluation and one pull-back of
    every layer per row, except where the next tick would have made them anyway.

    Args:
        every: rows are `every` ticks apart, at least 1.
        fields: keep the fields of every row too, as `moments`: all states and costates of every tick stay in memory.

    Raises:
        InputError: `every` below 1.
    """

    def __init__(self, every: int = 1, *, fields: bool = False) -> None:
        if every < 1:
            raise InputError(f"Record: every must be at least 1, got {every}", "a whole number of ticks", "use every=1")
        self.every = every
        self.fields = fields
        self.ticks: list[int] = []
        self.moments: list[tuple[tuple[AnyState, ...], tuple[AnyState, ...]]] = []
        self._states: list[Residuals] = []
        self._costates: list[Residuals] = []

    def __repr__(self) -> str:
        if not self.ticks:
            return f"Record(every={self.every}), empty: give it to relax as record="
        sites = len(self._states[0])
        last = f"{float(self._states[-1].max()):.1e} of states and {float(self._costates[-1].max()):.1e} of costates"
        kept = ", with all fields" if self.moments else ""
        return (
            f"Record of {plural(len(self.ticks), 'row')}, ticks {self.ticks[0]} to {self.ticks[-1]}, "
            f"{plural(sites, 'site')}{kept}\n  largest residuals in the last row: {last}"
        )

    def add(self, tick: int, states: Residuals, costates: Residuals) -> None:
        """Append one row."""
        self.ticks.append(tick)
        self._states.append(states)
        self._costates.append(costates)

    def keep(self, states: tuple[AnyState, ...], costates: tuple[AnyState, ...]) -> None:
        """Append copies of the fields of the row that was added last: an engine may write into its own."""
        self.moments.append((tuple(x.clone() for x in states), tuple(c.clone() for c in costates)))

    @property
    def state_residuals(self) -> Worldsheet:
        """‖r_l‖ per recorded tick and site, shape (ticks, L), on the CPU in float64."""
        return torch.stack(self._states)

    @property
    def costate_residuals(self) -> Worldsheet:
        """‖g_l‖ per recorded tick and site, shape (ticks, L), on the CPU in float64."""
        return torch.stack(self._costates)

"""Rates that are meant per prediction, whatever the loss is a mean over."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, cast

from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.dynamics.base import Dynamics
from worldsheet.dynamics.per_site import refuse_not_positive


class PerPrediction(Dynamics):
    """A dynamics that multiplies ∇C by the number of predictions that the loss is the mean of."""

    @property
    @abstractmethod
    def averaged(self) -> bool:
        """Whether the loss is a mean over the first dimension (else a sum)."""

    @property
    @abstractmethod
    def positions(self) -> float | None:
        """Over how many predictions of a sample it averages too; None where that is not known."""

    @property
    @override
    def counts_positions(self) -> bool:
        """Where the loss is a mean, unless the user has said them."""
        return self.averaged and self.positions is None

    @override
    def averaging_over(self, positions: float) -> Dynamics:
        """With so many."""
        made: Dynamics = replace(cast(Any, self), positions=positions)  # every concrete dynamics is a dataclass
        return made

    def _count(self, samples: int) -> float:
        return mean_over(samples, self.averaged, self.positions)


def mean_over(samples: int, averaged: bool, positions: float | None) -> float:
    """The factor between ∇C and its value for one prediction: how many predictions the loss is the mean of."""
    return float(samples * (positions or 1)) if averaged else 1.0


def refuse_no_positions(name: str, positions: float | None, averaged: bool) -> None:
    """Refuse a number of positions that is not positive, or that a sum does not average over.

    Raises:
        InputError: such a number.
    """
    refuse_not_positive(name, positions=positions)
    if positions is not None and not averaged:
        raise InputError(
            f"{name}: positions has no effect with averaged=False, got {positions}",
            "positions where the loss is a mean",
            "leave positions out",
        )

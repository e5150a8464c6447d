"""Imperfect substrates: what a dynamics does on hardware that is noisy, coarse, late or uneven."""

from worldsheet.substrate.base import Substrate
from worldsheet.substrate.delayed import Delayed
from worldsheet.substrate.mismatched import Mismatched
from worldsheet.substrate.noisy import Noisy
from worldsheet.substrate.quantised import Quantised

__all__ = ["Delayed", "Mismatched", "Noisy", "Quantised", "Substrate"]

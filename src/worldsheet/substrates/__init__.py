"""Imperfect substrates: what a dynamics does on hardware that is noisy, coarse, late or uneven."""

from worldsheet.substrates.base import Substrate
from worldsheet.substrates.delayed import Delayed
from worldsheet.substrates.mismatched import Mismatched
from worldsheet.substrates.noisy import Noisy
from worldsheet.substrates.quantised import Quantised

__all__ = ["Delayed", "Mismatched", "Noisy", "Quantised", "Substrate"]

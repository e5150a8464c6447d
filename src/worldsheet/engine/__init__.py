"""The engine: one loop over ticks, one body for a block of sites."""

from worldsheet.engine.block import Block, Residual
from worldsheet.engine.loop import run
from worldsheet.engine.stopping import Stop

__all__ = ["Block", "Residual", "Stop", "run"]

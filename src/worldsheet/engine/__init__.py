"""The engine: one loop over ticks, one body for a block of sites."""

from worldsheet.engine.base import Efforts, Engine, Residual
from worldsheet.engine.block import Block
from worldsheet.engine.choice import engine_for
from worldsheet.engine.loop import run
from worldsheet.engine.stacked import StackedBlock
from worldsheet.engine.stopping import Stop

__all__ = ["Block", "Efforts", "Engine", "Residual", "StackedBlock", "Stop", "engine_for", "run"]

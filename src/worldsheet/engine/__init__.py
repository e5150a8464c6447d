"""The engine: one loop over ticks, one body for a block of sites."""

from worldsheet.engine.base import Engine, Residual, SiteRange
from worldsheet.engine.batched.engine import StackedBlock
from worldsheet.engine.choice import engine_for
from worldsheet.engine.forward import ForwardEngine
from worldsheet.engine.loop import run
from worldsheet.engine.measure import residual_of
from worldsheet.engine.motion import Efforts, ParameterUpdater
from worldsheet.engine.sitewise.block import Block
from worldsheet.engine.stopping import Stop

__all__ = [
    "Block",
    "Efforts",
    "Engine",
    "ForwardEngine",
    "ParameterUpdater",
    "Residual",
    "SiteRange",
    "StackedBlock",
    "Stop",
    "engine_for",
    "residual_of",
    "run",
]

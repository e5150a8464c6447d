"""Sites of any module: the user's own forward runs as it is, and is cut where chosen submodules return."""

from worldsheet.cut.causes import (
    Where,
    cause_in_layer,
    describe,
    in_words,
    loss_error,
    name_of,
    no_scalar,
    unequal_shapes,
)
from worldsheet.cut.leaves import answered, deliver, is_watched, silenced
from worldsheet.cut.program import Program, call_of
from worldsheet.cut.pull import pull_by_sites
from worldsheet.cut.replayed import Replayed, ReplayedRun, shapes_along
from worldsheet.cut.run import Itself, Run
from worldsheet.cut.sites import Blocks, IsBlock, grouped, refuse_sharded
from worldsheet.cut.state import Site
from worldsheet.cut.walk import leaves_below

__all__ = [
    "Blocks",
    "IsBlock",
    "Itself",
    "Program",
    "Replayed",
    "ReplayedRun",
    "Run",
    "Site",
    "Where",
    "answered",
    "call_of",
    "cause_in_layer",
    "deliver",
    "describe",
    "grouped",
    "in_words",
    "is_watched",
    "leaves_below",
    "loss_error",
    "name_of",
    "no_scalar",
    "pull_by_sites",
    "refuse_sharded",
    "shapes_along",
    "silenced",
    "unequal_shapes",
]

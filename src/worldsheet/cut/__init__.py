"""Sites of any module: the user's own forward runs as it is, and is cut where chosen submodules return."""

from worldsheet.cut.leaves import answered, deliver, is_watched, silenced
from worldsheet.cut.program import Program, call_of, describe, in_words
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
    "answered",
    "call_of",
    "deliver",
    "describe",
    "grouped",
    "in_words",
    "is_watched",
    "leaves_below",
    "pull_by_sites",
    "refuse_sharded",
    "shapes_along",
    "silenced",
]

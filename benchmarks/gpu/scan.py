"""Recurrent networks by Newton's method and a scan over time."""

from collections.abc import Sequence
from typing import final

import worldsheet as ws
from benchmarks.gpu.plan import Figures, Item, NotHereError, Part, Plan


def recurrent() -> Figures:
    """Forward and backward of a long sequence, beside torch's own loop."""
    if not hasattr(ws.nn, "Recurrent"):
        raise NotHereError("this version has no worldsheet.nn.Recurrent")
    raise NotHereError("worldsheet.nn.Recurrent is there, and nothing here measures it yet")


@final
class Scan(Part):
    """Relaxation in time."""

    @property
    def name(self) -> str:
        """Of its file and its rows."""
        return "scan"

    @property
    def seconds(self) -> float:
        """How long it may take on a GPU."""
        return 20.0

    def items(self, plan: Plan) -> Sequence[Item]:
        """One."""
        return [Item("recurrent", recurrent)]

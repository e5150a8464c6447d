"""Which of a chain's sites a block holds."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Part:
    """Sites of a chain that has others below and above.

    Attributes:
        before: how many sites are below them.
        passes: whether sites, not the cost, are above them. Then what stands for the cost in the block's chain is the
            message from above: its slope.
    """

    before: int = 0
    passes: bool = False


WHOLE = Part()
"""All of them."""

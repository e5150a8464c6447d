"""Parameters that move with the fields."""

from collections.abc import Callable
from typing import TypeAlias, final

from torch import Tensor

from worldsheet.engine.forward import ForwardEngine
from worldsheet.engine.sitewise.block import Block

Efforts: TypeAlias = list[tuple[Tensor, Tensor | None]]
"""Parameters with their efforts, an entry per use; None where it was not used."""


@final
class ParameterUpdater:
    """Reads efforts at the moment at which a tick reads its messages, and lets parameters answer when it is over.

    Args:
        block: the sites; they move one by one, since stacked copies of parameters would be old after a tick.
        answer: moves the parameters; False, with nothing moved, where an effort is not finite.
    """

    def __init__(self, block: Block | ForwardEngine, answer: Callable[[Efforts], bool]) -> None:
        self._block = block
        self._answer = answer
        self._efforts: Efforts = []

    def read(self) -> None:
        """Before a tick: take the efforts, from the messages that the tick itself will read."""
        self._efforts = self._block.efforts(keep=True)

    def move(self) -> bool:
        """After a tick: move the parameters and forget what was made with the old ones; False on overflow."""
        moved = self._answer(self._efforts)
        self._block.renew()
        return moved

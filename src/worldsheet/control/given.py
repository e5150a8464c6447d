"""Functions of a problem that gets further parameters, which the user's functions do not see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

STAGE, END = 3, 1  # where parameters stand among the arguments of a stage's functions, and of an end's


@final
@dataclass(frozen=True)
class Given:
    """A function of the first `count` parameters, which are argument number `place`; of none of them if that is 0."""

    function: Callable[..., Tensor]
    count: int
    place: int

    def __call__(self, *arguments: Tensor) -> Tensor:
        """The function's own value."""
        front, known, more = arguments[: self.place], arguments[self.place], arguments[self.place + 1 :]
        return self.function(*front, *([known[..., : self.count]] if self.count else []), *more)

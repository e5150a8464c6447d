"""Messages that always arrive late."""

from dataclasses import dataclass, replace
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState
from worldsheet.dynamics import Character
from worldsheet.problem import View
from worldsheet.substrates.base import Substrate


@final
@dataclass(frozen=True)
class Delayed(Substrate):
    """Every message arrives a fixed number of ticks late: waves of finite speed between sites.

    The delay is one of order, so the verbs put it into the schedule: under any schedule S this is
    `schedule.Late(S, ticks)` with the inner dynamics. A site's own fields are not late.

    Args:
        inner: the dynamics that decides the moves.
        ticks: by how much; delays of nested substrates add up.

    Raises:
        InputError: a negative delay.
    """

    ticks: int

    def __post_init__(self) -> None:
        """Refuse messages from the future."""
        if self.ticks < 0:
            raise InputError(
                f"Delayed: ticks must not be negative, got {self.ticks}",
                "0 or more ticks",
                "use ticks=0 for fresh messages",
            )

    def arrived(self, message: AnyState, view: View) -> AnyState:
        """The message: what is old about it the schedule says."""
        return message

    @property
    def character(self) -> Character:
        """The inner dynamics' with the delay added."""
        inner = self.inner.character
        return replace(inner, delay=inner.delay + self.ticks, descends=False)

    def budget(self, depth: int) -> int:
        """As many ticks more as a hop takes."""
        return self.inner.budget(depth) * (1 + self.ticks)

    def default_budget(self, depth: int) -> int:
        """As many times longer."""
        return self.inner.default_budget(depth) * (1 + self.ticks)

"""How a relaxation ended, as a value whose text is the remedy."""

from dataclasses import dataclass
from enum import Enum

from worldsheet.core.words import plural


class Status(Enum):
    """The ways in which a relaxation can end."""

    CONVERGED = "converged"
    BUDGET_SPENT = "budget spent"
    ARRIVED = "credit arrived"
    DIVERGED = "diverged"
    SITES_CHANGED = "sites changed"
    ENDED = "stream ended"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """How a relaxation ended and, if it fell short, what to try.

    Attributes:
        status: converged, budget spent, stopped at the arrival of credit, diverged, or met other sites than before.
        ticks: ticks of optimisation time that were run.
        residual: largest relative residual of any site when it was last measured; None if it never was
            (an exact schedule needs no measurement).
        remedy: what to try next; empty when converged.
        growing: whether residuals grew at the end as they do at no stable step, so that gradients may point anywhere.
    """

    status: Status
    ticks: int
    residual: float | None = None
    remedy: str = ""
    growing: bool = False

    @property
    def converged(self) -> bool:
        """Whether states and costates solve the two-point problem to the tolerance asked for."""
        return self.status is Status.CONVERGED

    def __str__(self) -> str:
        measured = "" if self.residual is None else f", residual {self.residual:.1e}"
        advice = f": {self.remedy}" if self.remedy else ""
        return f"{self.status.value} after {plural(self.ticks, 'tick')}{measured}{advice}"

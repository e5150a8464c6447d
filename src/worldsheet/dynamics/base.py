"""A dynamics: how one site moves when it is its turn."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch

from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, Field, State
from worldsheet.dynamics.coefficients import Coefficients
from worldsheet.dynamics.spectrum import Operator
from worldsheet.problem import Linearised, View


@dataclass(frozen=True)
class Character:
    """What the engine must know of a dynamics besides its moves.

    Attributes:
        leads: the field that moves first in a tick, the other then reads it moved; None if both read the same moment.
        open_output: whether the last edge is no constraint: the output is the last layer's prediction at every moment
            and its costate ∇C there.
        whole_credit: whether what comes from above is the derivative of the cost through all layers above instead of
            the credit of the next: it crosses the network within a tick, and states move on predictions that have moved
            already.
        contrasted: whether gradients are the mean over two relaxations, nudged both ways: those of one mean nothing.
        vanishing: which residuals are zero at its fixed point.
        delay: by how many ticks all that it hears is late.
        patience: by how many ticks a site's own costate may be late for its state without diverging for certain; None
            where no limit is known.
        descends: whether it goes down from the forward pass, so that a cost far above the one there tells that a step
            is too long.
        growth: the factor a tick by which costate residuals may grow over three ticks; more, or residuals above those
            of the first tick, tell that a step is too long. Infinite where residuals may grow as they like.
        cure: what to try when it diverges.
    """

    leads: Field | None = None
    open_output: bool = False
    whole_credit: bool = False
    contrasted: bool = False
    vanishing: tuple[Field, ...] = (Field.STATE, Field.COSTATE)
    delay: int = 0
    patience: int | None = None
    descends: bool = False
    growth: float = inf
    cure: str = "let the dynamics take smaller steps"


class Dynamics(ABC):
    """The law of motion of a site, written in what that site can see.

    Every concrete dynamics is final. The engine asks for a new state, a new costate or both, as the schedule says.
    """

    @abstractmethod
    def state(self, view: View) -> State:
        """The site's next state."""

    @abstractmethod
    def costate(self, view: View) -> Costate:
        """The site's next costate."""

    @abstractmethod
    def credit(self, view: View) -> Costate:
        """What the site pulls back through its layer: to its parents' costates and to its parameters (4)."""

    def coefficients(self, samples: int) -> Coefficients | None:
        """The same three moves as numbers (19), equal to rounding; None if they are no fixed sums.

        Args:
            samples: batch size.
        """
        del samples
        return None

    @property
    def character(self) -> Character:
        """Which field leads, how the output is held, what vanishes at rest; by default neither leads, and both rest."""
        return Character()

    def fit(self, depth: int) -> None:
        """Refuse constants that are given site by site, for another number of sites than `depth`.

        Raises:
            InputError: there are such.
        """
        del depth

    def start(self, outputs: Sequence[AnyState]) -> Fields:
        """Fields before tick 0, given what a forward pass puts at every site; zeros by default."""
        return Fields(zeros_like(outputs), zeros_like(outputs))

    @property
    def automatic(self) -> bool:
        """Whether `calibrated` has to estimate a constant from the layers before the first tick; by default not."""
        return False

    def calibrated(self, linearised: Linearised) -> "Dynamics":
        """The same dynamics with every automatic constant turned into a number; itself if there is none.

        Raises:
            InputError: constants of the user's that are unstable for these layers.
        """
        del linearised
        return self

    @property
    def counts_positions(self) -> bool:
        """Whether it wants to know over how many positions of a sample a loss averages; by default not."""
        return False

    def averaging_over(self, positions: float) -> "Dynamics":
        """The same for a loss that is a mean over so many positions of a sample, if it `counts_positions`.

        Args:
            positions: predictions that a sample holds on average, the tokens of a sequence for example.
        """
        del positions
        return self

    def stiffness(self, linearised: Linearised) -> Operator | None:
        """The operator whose largest eigenvalue an automatic step is the inverse of; None without such a step."""
        del linearised
        return None

    def with_step(self, rate: float) -> "Dynamics":
        """The same dynamics with a number for its automatic step; itself if it has none."""
        del rate
        return self

    @property
    def settles_at_once(self) -> bool:
        """Whether one move on settled neighbours settles a site, so that finitely many ticks are exact; else False."""
        return False

    def tolerance(self, precision: float) -> float | None:
        """The relative residual that rounding to `precision` lets it reach; by default 256 times that, at most 0.02.

        None for a dynamics that is not to come to rest: unless the user asks for a tolerance, only its budget ends it.
        """
        return min(0.02, 256 * precision)

    def budget(self, depth: int) -> int:
        """Ticks after which a relaxation over `depth` layers is given up unless the user says otherwise.

        By default 100 (depth + 10): fifty round trips, and some for short chains.
        """
        return 100 * (depth + 10)

    def default_budget(self, depth: int) -> int:
        """Ticks of a relaxation for which neither a budget nor a tolerance is asked; by default `budget`.

        Fewer for a dynamics that comes to rest too slowly for a step of training to wait.
        """
        return self.budget(depth)


def zeros_like(outputs: Sequence[AnyState]) -> tuple[AnyState, ...]:
    """A zero field of the shapes of a forward pass."""
    return tuple(torch.zeros_like(output) for output in outputs)

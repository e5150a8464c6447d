"""A dynamics: how one site moves when it is its turn."""

from abc import ABC, abstractmethod

from worldsheet.core.shapes import Costate, State
from worldsheet.problem import View


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

    @property
    @abstractmethod
    def settles_at_once(self) -> bool:
        """Whether one move on settled neighbours settles a site, so that a finite number of ticks is exact."""

    @abstractmethod
    def budget(self, depth: int) -> int:
        """Ticks after which a relaxation over `depth` layers is given up unless the user says otherwise."""

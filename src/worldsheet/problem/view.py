"""Locality as a type: all that a dynamics may know of the worldsheet."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from worldsheet.core.types import Costate, State


class View(ABC):
    """What one site sees at one moment: its own two fields and one message from each side.

    A dynamics receives nothing else, so it cannot read further than its neighbours. Messages are computed when first
    read: a dynamics that does not look at one does not pay for it.
    """

    @property
    @abstractmethod
    def state(self) -> State:
        """The site's own state x_l."""

    @property
    @abstractmethod
    def costate(self) -> Costate:
        """The site's own costate λ_l."""

    @property
    @abstractmethod
    def prediction(self) -> State:
        """From below: f_l(x_{l-1}), the site's own layer at the state it received."""

    @property
    @abstractmethod
    def pulled(self) -> Costate:
        """From above: Jᵀ·credit of the layers that read this site, summed; ∇C at the output."""

    @property
    @abstractmethod
    def credit(self) -> Costate:
        """What the site itself sends down, as its dynamics says."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """Batch size: the first dimension of a state."""

    @property
    @abstractmethod
    def at_output(self) -> bool:
        """Whether the message from above is ∇C."""

    @abstractmethod
    def own(self, values: Sequence[float]) -> float | Tensor:
        """The site's entry of a list with one number for each site 1..L; shaped to multiply its fields."""

    @abstractmethod
    def absorbed(self, point: State, step: float) -> State:
        """At the output, the y with y + step·∇C(y) = point; it sees the cost and nothing else.

        Raises:
            RelaxationError: a cost without a proximal step.
        """

    @property
    @abstractmethod
    def state_residual(self) -> State:
        """r_l = f_l(x_{l-1}) − x_l (2)."""

    @property
    def costate_residual(self) -> Costate:
        """g_l = J_{l+1}ᵀλ_{l+1} − λ_l, with ∇C − λ_L at the output (3)."""
        return self.pulled - self.costate

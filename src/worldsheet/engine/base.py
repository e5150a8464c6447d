"""What the loop and the verbs need of an engine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.problem import Problem
from worldsheet.core.topology import Topology
from worldsheet.core.types import Residuals
from worldsheet.dynamics import Dynamics
from worldsheet.problem import Chain
from worldsheet.schedules import Phase, Tick


class Residual(NamedTuple):
    """How far the fields are from the solution of the two-point problem.

    Attributes:
        states: ‖r_l‖ for l = 1..L, in float64 on the CPU.
        costates: ‖g_l‖ for l = 1..L, likewise.
        relative: the largest of ‖r_l‖/‖f_l(x_{l-1})‖ and ‖g_l‖/‖J_{l+1}ᵀλ_{l+1}‖ that the dynamics brings to zero: 0
            where nothing flows, infinite where a message is zero and its field is not, NaN if any field has overflowed.
    """

    states: Residuals
    costates: Residuals
    relative: float


def total(sizes: Residuals) -> Tensor:
    """The norm of all sites together, where the sizes are."""
    found: Tensor = torch.linalg.vector_norm(sizes)
    return found


class Engine(ABC):
    """Holds the fields of one relaxation and lets sites fire.

    Attributes:
        chain: the problem.
        dynamics: how a site moves.
        topology: the sites as the schedule sees them.
    """

    chain: Chain
    dynamics: Dynamics
    topology: Topology

    @property
    @abstractmethod
    def problem(self) -> Problem:
        """What was relaxed, drawn as it was drawn."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Forward evaluations of layers so far, those for the shapes of start values left out."""

    @property
    @abstractmethod
    def pulls(self) -> int:
        """Pull-backs through layers so far."""

    @abstractmethod
    def start(self, initial: Fields | None) -> None:
        """Give the fields values before tick 0, by default the dynamics' own.

        Raises:
            InputError: initial fields whose number or shapes are not those that the layers produce.
        """

    def move(self, tick: Tick) -> None:
        """Let a tick happen, phase by phase."""
        for phase in tick:
            self.fire(phase)
        self.close_tick()

    @abstractmethod
    def fire(self, phase: Phase) -> None:
        """Move the sites of a phase: all read before any writes."""

    @abstractmethod
    def close_tick(self) -> None:
        """What is now in the fields is one tick old from here on."""

    @abstractmethod
    def residual(self) -> Residual:
        """Measure every site with the messages of this moment."""

    def slope(self, tick: Tick) -> Tensor:
        """‖g‖ over all sites, up to one factor for the relaxation, without the host's waiting for it.

        To be asked for once between two ticks, as what is remembered of the last one may be used up.

        Args:
            tick: the last one.
        """
        del tick
        return total(self.residual().costates)

    @property
    def overflowed(self) -> bool:
        """Whether some field or residual is not finite."""
        return isnan(self.residual().relative)

    @abstractmethod
    def efforts(self) -> list[tuple[Tensor, Tensor | None]]:
        """∂𝓛/∂θ (4) of every parameter of every layer, an entry per use; None where it was not used."""

    @abstractmethod
    def input_gradient(self) -> Tensor | None:
        """Jᵀλ pulled back to the input, which is clamped and has no costate; None unless it requires grad."""

    @abstractmethod
    def close(self) -> None:
        """The relaxation is over: let statistics move once."""

    @abstractmethod
    def credit_at_ends(self) -> tuple[float, float]:
        """Norms of the credit of the sites that read the input, and of ∇C."""

    @property
    @abstractmethod
    def fields(self) -> Fields:
        """The fields now, input left out."""

    @property
    @abstractmethod
    def loss(self) -> Tensor:
        """C at the output as it is now."""

    @property
    def sees_all_reads(self) -> bool:
        """Whether its topology has every state that a prediction was made from; else a schedule settles later."""
        return True

    @property
    @abstractmethod
    def precision(self) -> float:
        """Relative rounding of the output's dtype."""


def check_answer(dynamics: Dynamics, asked: str, answer: object, like: Tensor | None) -> Tensor:
    """What a dynamics answered, if it is a tensor of the shape of the site's fields.

    Raises:
        InputError: it is not.
    """
    if isinstance(answer, Tensor) and (like is None or answer.shape == like.shape):
        return answer
    got = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"type {type(answer).__name__}"
    wanted = "a tensor" if like is None else f"a tensor of the site's shape {tuple(like.shape)}"
    raise InputError(
        f"{type(dynamics).__name__}.{asked} must return {wanted}, got {got}",
        "the shape of view.state, whose leading dimensions may be sites and samples",
        "end the method with return" if answer is None else "compute entry by entry from the fields of the view",
    )


@final
@dataclass(frozen=True)
class SiteRange:
    """Sites of a chain that has others below and above.

    Attributes:
        before: how many sites are below them.
        passes: whether sites, not the cost, are above them. Then what stands for the cost in the block's chain is the
            message from above: its slope.
    """

    before: int = 0
    passes: bool = False


WHOLE = SiteRange()
"""All of them."""

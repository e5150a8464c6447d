"""What a relaxation returns."""

from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, final

from torch import Tensor

from worldsheet.core.errors import InputError, RelaxationError, SitesChangedError
from worldsheet.core.fields import Fields
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.problem import Problem
from worldsheet.core.record import Record
from worldsheet.core.types import AnyState
from worldsheet.core.words import number_of, plural
from worldsheet.cut import answered
from worldsheet.problem import Chain
from worldsheet.solve.gradients import accumulate

Pairs: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
"""Leaf tensors with their gradients."""


@final
@dataclass(frozen=True)
class Solution:
    """The fields of a relaxation when it stopped, what they say of the parameters, and how it ended.

    Attributes:
        chain: what was relaxed.
        outcome: how it ended, with a remedy if it fell short.
        loss: C(x_L, target), a scalar without graph.
        fields: states and costates; `fields.doubled()` reads them as (x̂, ẑ).
        record: the record that was asked for, or None.
        evaluations: forward evaluations of layers, those for the shapes of start values left out.
        pulls: pull-backs through layers.
        problem: the functions that were relaxed; calling them again draws the same random numbers.
        pairs: leaf tensors with their gradients; empty if the relaxation diverged.
        half: whether it is one of two relaxations whose gradients mean something together only.
        input_gradient: ∂C/∂x_0, or None if the input did not require grad; in the form of the input if it is a pytree.
    """

    chain: Chain
    outcome: Outcome
    loss: Tensor
    fields: Fields
    record: Record | None
    evaluations: int
    pulls: int
    problem: Problem = field(repr=False)
    pairs: Pairs = field(repr=False)
    input_gradient: Any = field(repr=False)
    half: bool = field(default=False, repr=False)

    def __repr__(self) -> str:
        work = f"{plural(self.evaluations, 'evaluation')} and {plural(self.pulls, 'pull-back')} of layers"
        recorded = "" if self.record is None else f", recorded in {plural(len(self.record.ticks), 'row')}"
        return (
            f"Solution at {plural(len(self.fields.states), 'site')}: {self.outcome}\n"
            f"  loss {number_of(self.loss)}, {work}{recorded}"
        )

    @property
    def ticks(self) -> int:
        """Ticks of optimisation time."""
        return self.outcome.ticks

    @property
    def states(self) -> tuple[AnyState, ...]:
        """x_1..x_L; `states[-1]` is the output."""
        return self.fields.states

    @property
    def costates(self) -> tuple[AnyState, ...]:
        """λ_1..λ_L, in units of the loss per unit of state."""
        return self.fields.costates

    def gradients(self) -> dict[str, Tensor]:
        """∂C/∂θ = (∂f_l/∂θ_l)ᵀλ_l (4) by parameter name; tied uses are summed, unused and frozen parameters left out.

        Other leaf tensors that the loss reads have no name here: `accumulate` fills their `.grad`.

        Raises:
            RelaxationError: the relaxation diverged, so there is nothing to use.
            InputError: it is one of two, nudged both ways, that have a gradient together.
        """
        refuse_diverged(self.outcome)
        refuse_half(self.half, "a relaxation")
        return named(self.chain, self.pairs)

    def accumulate(self) -> None:
        """Add the gradients to the parameters' `.grad`, as `loss.backward()` would.

        Raises:
            RelaxationError: the relaxation diverged; `.grad` is untouched.
            InputError: it is one of two, nudged both ways, that have a gradient together.
        """
        refuse_diverged(self.outcome)
        refuse_half(self.half, "a relaxation")
        accumulate(owned(self.pairs))


def named(chain: Chain, pairs: Pairs) -> dict[str, Tensor]:
    """Gradients by the names that their parameters have in a chain."""
    names = {id(parameter): name for name, parameter in chain.named_parameters()}
    return {names[id(leaf)]: answered(leaf, gradient) for leaf, gradient in pairs if id(leaf) in names}


def owned(pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
    """The pairs with gradients in memory of their own."""
    return [(leaf, gradient.clone()) for leaf, gradient in pairs]


def refuse_half(half: bool, what: str) -> None:
    """Raise where gradients would be those of one of two nudges.

    Raises:
        InputError: they would.
    """
    if half:
        raise InputError(
            f"{what} with one nudge has no gradient under this dynamics: it is the difference of two",
            "two relaxations, nudged both ways",
            "use ws.centred(chain, x, target, dynamics).accumulate()",
        )


def refuse_other_sites(outcome: Outcome) -> None:
    """Raise where a relaxation met other sites than it began with."""
    if outcome.status is Status.SITES_CHANGED:
        raise SitesChangedError(
            f"the relaxation cannot give gradients: {replace(outcome, remedy='')}",
            "a forward that calls the same sites",
            outcome.remedy,
        )


def refuse_diverged(outcome: Outcome) -> None:
    """Raise where an outcome cannot be returned and its gradients would be wrong."""
    refuse_other_sites(outcome)
    if outcome.status is Status.DIVERGED:
        raise RelaxationError(
            f"the relaxation cannot give gradients: it {replace(outcome, remedy='')}",
            "a relaxation that converges, or spends its budget",
            outcome.remedy,
        )

"""How a search over a batch ended, problem by problem."""

from dataclasses import dataclass
from enum import IntEnum
from typing import final

from torch import Tensor

from worldsheet.control.methods.iterate import Residuals
from worldsheet.core.outcome import Outcome, Status


class Termination(IntEnum):
    """Why a problem of a batch does not move any more."""

    RUNNING = 0
    CONVERGED = 1
    SPENT = 2
    STUCK = 3
    INFEASIBLE = 4
    OVERFLOWED = 5
    NO_START = 6
    UNBOUNDED = 7
    UNSTABLE = 8
    NOT_SMOOTH = 9
    UNSOLVED = 10


_STATUS = {
    Termination.CONVERGED: (Status.CONVERGED, ""),
    Termination.SPENT: (Status.BUDGET_SPENT, "raise max_ticks, start from a better initial_guess, or loosen tol"),
    Termination.STUCK: (
        Status.BUDGET_SPENT,
        "no step leads downhill: scale states, controls and costs to about 1, give every control a cost, "
        "or start from another initial_guess",
    ),
    Termination.INFEASIBLE: (
        Status.BUDGET_SPENT,
        "constraints cannot be met from here: check that the initial state satisfies them and that the horizon is "
        "long enough, ask limits later or at a price (PathLimit), or start from another initial_guess",
    ),
    Termination.OVERFLOWED: (
        Status.DIVERGED,
        "a field overflowed: use a smaller dt or step, or Wave(impedance=Riccati())",
    ),
    Termination.UNBOUNDED: (
        Status.DIVERGED,
        "the cost falls without limit: bound the controls or the states, or give them a cost that grows",
    ),
    Termination.UNSTABLE: (
        Status.DIVERGED,
        "the integrator is unstable: the dynamics decays faster than its steps can follow; use RadauIIA() or "
        "ImplicitMidpoint(), a smaller dt, or slower dynamics",
    ),
    Termination.UNSOLVED: (
        Status.DIVERGED,
        "the implicit integrator's equations are not solved at the initial state: give it more iterations or use a "
        "smaller dt, and check that the dynamics has a Jacobian there",
    ),
    Termination.NOT_SMOOTH: (
        Status.BUDGET_SPENT,
        "dynamics, costs or constraints have kinks where the search stopped: replace abs, clamp and relu by smooth "
        "functions (softplus, sqrt(x² + ε)), or write |u| as the sum of two controls that are not negative",
    ),
    Termination.NO_START: (
        Status.DIVERGED,
        "the initial state or parameters are NaN or infinite: check where they come from",
    ),
}


@final
@dataclass(frozen=True)
class RawResult:
    """Fields of all problems when they stopped, batch flattened.

    Attributes:
        states: (B, N + 1, nz).
        costates: (B, N + 1, nz).
        controls: (B, N, m).
        gains: (B, N, m, nz), or None where the method has none.
        inequality: multipliers of path constraints and bounds, (B, N, p), or None where the method has none.
        equality: multipliers of terminal constraints, (B, k), likewise.
        slacks: s > 0 of G + s = 0, (B, N, p), likewise.
        residuals: one number per condition and problem.
        endings: (B,) of `Termination`.
        ticks: (B,).
    """

    states: Tensor
    costates: Tensor
    controls: Tensor
    gains: Tensor | None
    inequality: Tensor | None
    equality: Tensor | None
    slacks: Tensor | None
    residuals: Residuals
    terminations: Tensor
    ticks: Tensor

    def outcomes(self) -> tuple[Outcome, ...]:
        """One outcome per problem."""
        worst = self.residuals.worst().tolist()
        return tuple(
            Outcome(status, ticks, residual, remedy)
            for (status, remedy), ticks, residual in zip(
                (_STATUS[Termination(code)] for code in self.terminations.tolist()),
                self.ticks.tolist(),
                worst,
                strict=True,
            )
        )

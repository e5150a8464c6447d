"""What `solve` returns."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.derivatives import effort
from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.history import History
from worldsheet.control.methods.iterate import Residuals
from worldsheet.control.methods.line_search import merit
from worldsheet.control.methods.result import RawResult
from worldsheet.control.problem import Problem
from worldsheet.core.outcome import Outcome, Status


def parameter_gradients(
    problem: Problem, states: Tensor, costates: Tensor, controls: Tensor, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Sum over stages and problems of ∂/∂θ (L_k + λ_{k+1}ᵀ F_k), and of ∂φ/∂θ: (27).

    States, costates and controls are given and not differentiated: credit travels between stages as costates only.
    """
    flat = Discretised.of(problem)
    steps, size = problem.steps, problem.state_size
    count = len(flat.start)
    path = states.detach().reshape(count, steps + 1, size)
    ahead = costates.detach().reshape(count, steps + 1, size)[:, 1:]
    control = controls.detach().reshape(count, steps, problem.control_size)
    with torch.enable_grad():
        stage = flat.stages(torch.cat((path[:, :-1], control), -1))
        value = stage[..., 0].sum() + (ahead * stage[..., 1 : 1 + size]).sum() + flat.end(path[:, -1])[..., 0].sum()
        found = effort(value, list(parameters.values()))
    return {name: part.detach() for name, part in zip(parameters, found, strict=True) if part is not None}


def accumulate(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    """Add gradients to `.grad`."""
    for name, gradient in gradients.items():
        leaf = parameters[name]
        leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad + gradient


@final
@dataclass(frozen=True)
class Trajectory:
    """Trajectories of all problems of a batch when they stopped; leading dimensions are the batch's.

    Attributes:
        problem: what was solved.
        times: t_0..t_N, (..., N + 1).
        states: (..., N + 1, n).
        costates: λ, what a small change of the state is worth, (..., N + 1, n); in units of cost per state.
        controls: (..., N, m).
        gains: K of δu_k = K_k δx_k around the trajectory, (..., N, m, n); None for methods without an impedance.
        cost: φ + Σ L, (...).
        duration: t_N − t_0, (...).
        residuals: the largest violation of each optimality condition, (...) each.
        outcomes: how each problem of the flattened batch ended.
        history: the record that was asked for, or None.
    """

    problem: Problem
    times: Tensor
    states: Tensor
    costates: Tensor
    controls: Tensor
    gains: Tensor | None
    cost: Tensor
    duration: Tensor
    residuals: Residuals
    outcomes: tuple[Outcome, ...]
    history: History | None

    @property
    def converged(self) -> Tensor:
        """Which problems are solved, (...)."""
        flags = torch.tensor([outcome.converged for outcome in self.outcomes])
        return flags.reshape(self.cost.shape)

    @property
    def ticks(self) -> Tensor:
        """Ticks that each problem took, (...)."""
        return torch.tensor([outcome.ticks for outcome in self.outcomes]).reshape(self.cost.shape)

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of the batch; its remedy says how many problems ended that way."""
        if len(self.outcomes) == 1:
            return self.outcomes[0]
        rank = {Status.CONVERGED: 0, Status.BUDGET_SPENT: 1, Status.DIVERGED: 2}
        worst = max(self.outcomes, key=lambda outcome: (rank[outcome.status], outcome.residual or 0.0))
        ticks = max(outcome.ticks for outcome in self.outcomes)
        if worst.converged:
            return Outcome(worst.status, ticks, worst.residual)
        same = [number for number, outcome in enumerate(self.outcomes) if outcome.remedy == worst.remedy]
        count = Counter(outcome.status for outcome in self.outcomes)[Status.CONVERGED]
        told = f"{count} of {len(self.outcomes)} problems converged; {len(same)}, the first of them {same[0]}, did not"
        return Outcome(worst.status, ticks, worst.residual, f"{told}: {worst.remedy}")

    def gradients(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """d(sum of costs)/dθ of anything that dynamics and costs read, stage by stage: Σ (∂H/∂θ) (27).

        At a solution it is the gradient of the optimal cost. Each stage is pulled back by itself, with its own costate.

        Args:
            parameters: leaves by name, such as `dict(module.named_parameters())`; those that play no part are left out.
        """
        return parameter_gradients(self.problem, self.states, self.costates, self.controls, parameters)

    def accumulate(self, parameters: dict[str, Tensor]) -> None:
        """Add the gradients to the parameters' `.grad`, for any optimizer or port to use."""
        accumulate(parameters, self.gradients(parameters))


def solution_of(flat: Discretised, rest: RawResult, history: History | None) -> Trajectory:
    """A flat result in the shapes of its problem."""
    problem, batch = flat.problem, flat.problem.batch
    size = problem.state_size
    times = flat.times(rest.states)
    none = rest.states.new_zeros((*rest.controls.shape[:2], 0))
    cost = merit(flat, rest.states, rest.controls, none, none)[..., 0]

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.reshape((*batch, *tensor.shape[1:]))

    return Trajectory(
        problem,
        shaped(times),
        shaped(rest.states[..., :size]),
        shaped(rest.costates[..., :size]),
        shaped(rest.controls),
        None if rest.gains is None else shaped(rest.gains[..., :size]),
        shaped(cost),
        shaped(times[:, -1] - times[:, 0]),
        rest.residuals.reshaped(batch),
        rest.outcomes(),
        history,
    )

"""What `solve` returns."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.derivatives import effort
from worldsheet.control.discretized import Discretised
from worldsheet.control.elastic import Elastic
from worldsheet.control.methods.history import History
from worldsheet.control.methods.iterate import Residuals
from worldsheet.control.methods.result import RawResult
from worldsheet.control.methods.stagewise import cost_of
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import Problem
from worldsheet.control.sensitivity import live, weights_of
from worldsheet.core.errors import InputError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.words import number_of, plural, shape_of


def parameter_gradients(solved: "Trajectory", parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """∂/∂θ of the Lagrangian: φ + πᵀψ + Σ (L_k + λ_{k+1}ᵀ F_k + μ_kᵀ G_k) + λ_0ᵀ x_0, summed over problems (27).

    States, costates, controls and multipliers are given and not differentiated, by the envelope theorem: what they
    would change by makes no difference at a solution. Credit travels between stages as costates only.
    """
    problem = solved.problem
    flat = Discretised.of(problem)
    count, steps = len(flat.start), problem.steps
    path = solved.states.detach().reshape(count, steps + 1, -1)
    costates = torch.nn.functional.pad(solved.costates.detach().reshape(count, steps + 1, -1), (0, flat.extra))
    if solved.unknowns is not None:
        held = solved.unknowns.detach().reshape(count, 1, -1)
        path = torch.cat((path, held.expand(count, steps + 1, -1)), -1)
    if problem.duration is not None:
        chosen = (solved.duration.detach().reshape(count, 1, 1) / problem.duration.guess).log()
        path = torch.cat((path, chosen.expand(count, steps + 1, 1)), -1)
    points = torch.cat((path[:, :-1], solved.controls.detach().reshape(count, steps, -1)), -1)
    with torch.enable_grad():
        flat = flat.opened()
        values, end = flat.stages(points), flat.end(path[:, -1])
        multipliers = _multipliers(solved, values[..., 1 + flat.size :], end[..., 1:])
        stage_weights, end_weights = weights_of(costates, *multipliers)
        value = (stage_weights * values).sum() + (end_weights * end).sum() + (costates[:, 0] * flat.start).sum()
        found = effort(value, list(parameters.values()))
    return {name: part.detach() for name, part in zip(parameters, found, strict=True) if part is not None}


def _multipliers(solved: "Trajectory", inequalities: Tensor, terminal: Tensor) -> tuple[Tensor, Tensor]:
    """μ and π in the shapes of G and ψ; zero from a method that knows none, where nothing depends on them.

    Raises:
        InputError: bounds that depend on a parameter, from such a method.
    """
    if solved.multipliers is not None:
        known = solved.multipliers
        return known.inequality.reshape(inequalities.shape), known.terminal.reshape(terminal.shape)
    if inequalities.requires_grad:
        raise InputError(
            "bounds or constraints depend on a parameter, and this method has no multipliers to give its gradient",
            "Wave(impedance=Riccati()), the default",
            "solve with the default method",
        )
    return torch.zeros_like(inequalities), torch.zeros_like(terminal)


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
        multipliers: of path constraints, bounds and terminal constraints; None for methods that have none.
        gains: K of δu_k = K_k δx_k around the trajectory, (..., N, m, n); None for methods without an impedance.
        cost: φ + Σ L, (...).
        duration: t_N − t_0, (...).
        residuals: the largest violation of each optimality condition, (...) each.
        outcomes: how each problem of the flattened batch ended.
        history: the record that was asked for, or None.
        excess: by how much each row of a soft limit is exceeded, (..., N, e); None where no limit has a price.
        unknowns: parameters that were chosen, (..., q); None where there are none.
    """

    problem: Problem
    times: Tensor
    states: Tensor
    costates: Tensor
    controls: Tensor
    multipliers: Multipliers | None
    gains: Tensor | None
    cost: Tensor
    duration: Tensor
    residuals: Residuals
    outcomes: tuple[Outcome, ...]
    history: History | None
    excess: Tensor | None = None
    unknowns: Tensor | None = None

    def __repr__(self) -> str:
        problems, steps = plural(self.cost.numel(), "problem"), plural(self.problem.steps, "step")
        sizes = f"states {shape_of(self.states)}, controls {shape_of(self.controls)}"
        return f"Trajectory of {problems} over {steps}: {self.outcome}\n  cost {number_of(self.cost)}, {sizes}"

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

    def gradients(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """d(sum of optimal costs)/dθ of anything that the problem reads (27).

        That is whatever dynamics, costs, constraints, bounds, initial states and `Problem.parameters` depend on. Each
        stage is pulled back by itself, with its own costate and multipliers.

        Args:
            parameters: leaves by name, such as `dict(module.named_parameters())`; those that play no part are left out.

        Raises:
            InputError: a problem of the batch that is not solved, since only at a solution this is the gradient.
        """
        if not bool(self.converged.all()):
            failed = int((~self.converged).sum())
            raise InputError(
                f"{failed} of {len(self.outcomes)} problems did not converge and have no gradient",
                "solved problems: only there what this computes is the gradient of the cost",
                "look at `outcome`, and solve again from `problem.at(initial_state[converged])` for those that did",
            )
        return parameter_gradients(self, parameters)

    def accumulate(self, parameters: Mapping[str, Tensor]) -> None:
        """Add the gradients to the parameters' `.grad`, for any optimizer or port to use."""
        accumulate(parameters, self.gradients(parameters))


def solution_of(flat: Discretised, rest: RawResult, history: History | None, elastic: Elastic) -> Trajectory:
    """A flat result in the shapes of its problem, with its dependence on what requires grad.

    What exceeds soft limits is no control of the problem that was given, nor is its being positive one of its limits.
    """
    problem, batch, soft = elastic.given, flat.problem.batch, len(elastic.rows)
    size, applied = problem.state_size, problem.control_size
    with torch.no_grad():
        cost = cost_of(flat, rest.states, rest.controls)
    states, controls, cost = live(flat, rest, cost) or (rest.states, rest.controls, cost)
    times = flat.times(states)

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.reshape((*batch, *tensor.shape[1:]))

    return Trajectory(
        problem,
        shaped(times),
        shaped(states[..., :size]),
        shaped(rest.costates[..., :size]),
        shaped(controls[..., :applied]),
        None
        if rest.inequality is None or rest.equality is None
        else Multipliers(shaped(rest.inequality[..., : rest.inequality.shape[-1] - soft]), shaped(rest.equality)),
        None if rest.gains is None else shaped(rest.gains[..., :applied, :size]),
        shaped(cost),
        shaped(times[:, -1] - times[:, 0]),
        rest.residuals.reshaped(batch),
        rest.outcomes(),
        history,
        shaped(controls[..., applied:]) if soft else None,
        None if problem.unknowns is None else shaped(states[:, 0, size : size + problem.unknowns.count]),
    )

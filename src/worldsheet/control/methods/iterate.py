"""Where a search stands: the fields of every problem of a batch, and what the residuals say of them."""

from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.compiled.execution import mapped
from worldsheet.control.derivatives import Expansion
from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_end

_SHARE = 0.01  # of what a dual residual is made of: tolerances are relative to that
_LEAST_COST = 1e-6
ORDINARY = 100.0  # terminal constraints of sizes within this factor of 1 are all treated alike
_LEAST_END = 1e-9  # of a terminal constraint, so that a state that is nearly zero at first makes nothing stiff
_ROUNDING = 100  # ε: no residual of dynamics is asked to be smaller


@final
@dataclass(frozen=True)
class Iterate:
    """States, costates and controls, and the multipliers of what is not allowed; leading dimension B everywhere.

    Attributes:
        states: z, (B, N + 1, nz).
        costates: λ, (B, N + 1, nz).
        controls: u, (B, N, m).
        slacks: s > 0 with G + s = 0, (B, N, p).
        forces: multipliers of G ≤ 0, > 0, (B, N, p).
        pulls: multipliers of ψ = 0, (B, k).
        barrier: μ, what s · force is held at, (B,).
        sizes: of each state, the largest of its means over the horizon so far, at least 1, (B, nz).
        end_sizes: of each terminal constraint, by how much states of their sizes move it, at least 1, found at the
            first tick; where states leave it below a hundredth, the largest of these so far, (B, k).
        shift: added to the Hessians in the last step, in units of `regularizer`, (B,).
        regularizer: what one unit of shift adds to the diagonal of a stage's Hessian, (B, nz + m).
        failures: ticks without progress in a row, (B,).
        filter: pairs (cost with barrier, violation) that a step has to be better than in one of the two, (B, M, 2);
            infinite where there is none.
        limit: the largest violation that a step may lead to, (B,).
        exchange: ρ > 0, what slack a unit of force counts as, (B, 1, p), where an active set is kept in the place of a
            barrier. 0 where there is a barrier, (B, 0, p) where all of the batch have one.
        active: rows that are equations then, (B, N, p).
        short: steps in a row that were short, (B,).
        goal: the violation that is to be reached before the cost counts; 0 where it counts, (B,).
    """

    states: Tensor
    costates: Tensor
    controls: Tensor
    slacks: Tensor
    forces: Tensor
    pulls: Tensor
    barrier: Tensor
    sizes: Tensor
    end_sizes: Tensor
    shift: Tensor
    regularizer: Tensor
    failures: Tensor
    filter: Tensor
    limit: Tensor
    exchange: Tensor
    active: Tensor
    short: Tensor
    goal: Tensor

    @property
    def restoring(self) -> Tensor:
        """Which problems make violations smaller and nothing else, (B,)."""
        return self.goal > 0

    @property
    def counted(self) -> Tensor:
        """What a unit of cost counts, 1 or 0, (B,)."""
        return (~self.restoring).to(self.goal)

    @property
    def warm(self) -> bool:
        """Whether any of the batch may keep an active set."""
        return self.exchange.shape[1] > 0

    @property
    def kept(self) -> Tensor:
        """Which problems keep an active set, (B, 1, 1); only where `warm`."""
        return self.exchange.amax(-1, keepdim=True) > 0

    def select(self, index: Tensor) -> "Iterate":
        """Some of the problems."""
        return mapped(lambda part: part[index], self)

    def put(self, index: Tensor, other: "Iterate") -> None:
        """Write other problems into these places."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)

    def points(self) -> Tensor:
        """W = (z, u) of every stage, (B, N, nz + m)."""
        return torch.cat((self.states[:, :-1], self.controls), -1)

    def weights(self) -> Tensor:
        """(1, λ⁺, force) of every stage, which make its share of the Lagrangian of (L, F, G): (B, N, 1 + nz + p)."""
        one = self.states.new_ones((*self.controls.shape[:-1], 1))
        return self.counted[:, None, None] * torch.cat((one, self.costates[:, 1:], self.forces), -1)


@final
@dataclass(frozen=True)
class Conditions:
    """The optimality conditions at an iterate, each zero at a solution.

    Attributes:
        stage: values (L, F, G) and derivatives of L + λᵀF + forceᵀG at every stage.
        end: values (φ, ψ) and derivatives of φ + pullᵀψ.
        gap: F − z⁺, (B, N, nz).
        slope: (H_z − λ, H_u) of every stage, (B, N, nz + m).
        end_slope: φ_z + ψ_zᵀ pull − λ_N, (B, nz).
        misfit: G + s, (B, N, p).
    """

    stage: Expansion
    end: Expansion
    gap: Tensor
    slope: Tensor
    end_slope: Tensor
    misfit: Tensor

    def select(self, index: Tensor) -> "Conditions":
        """Some of the problems."""
        stage, end = (mapped(lambda part: part[index], each) for each in (self.stage, self.end))
        rest = (self.gap[index], self.slope[index], self.end_slope[index], self.misfit[index])
        return Conditions(stage, end, *rest)

    def inequality(self) -> Tensor:
        """G, (B, N, p)."""
        return self.stage.values[..., 1 + self.gap.shape[-1] :]

    def target(self) -> Tensor:
        """ψ, (B, k)."""
        return self.end.values[..., 1:]

    def sizes_of_inequalities(self, points: Tensor) -> Tensor:
        """How large each is somewhere, or how far all of a point moves it to first order, (B, p)."""
        jacobian = self.stage.jacobian[..., 1 + self.gap.shape[-1] :, :]
        moved = (jacobian.abs() @ points.abs().amax(1)[:, None, :, None])[..., 0]
        return torch.maximum(moved, self.inequality().abs()).amax(1)

    def sizes_of_targets(self, states: Tensor) -> Tensor:
        """The same of terminal constraints, by the largest states of the horizon, (B, k)."""
        moved = (self.end.jacobian[..., 1:, :].abs() @ states.abs().amax(1)[..., None])[..., 0]
        return torch.maximum(moved, self.target().abs())


def grown(at: Iterate, found: Conditions) -> Iterate:
    """With the sizes of these states, and, at the first tick, of what depends on them at the end."""
    sizes = torch.maximum(at.sizes, at.states.abs().mean(1))
    begun = at.limit.isfinite()[:, None]
    ends = (found.end.jacobian[..., 1:, :].abs() @ sizes[..., None])[..., 0].clamp(min=1.0)
    small = _known(found.sizes_of_targets(at.states))
    small = torch.where(small < 1 / ORDINARY, small.clamp(min=_LEAST_END), 1.0)
    ends = torch.where(small < 1, small, ends)
    return replace(at, sizes=sizes, end_sizes=torch.where(begun, torch.maximum(at.end_sizes, small), ends))


def _known(sizes: Tensor) -> Tensor:
    """Sizes (B, k), where they are zero, as of what is at rest at first, the smallest of the others, at most 1."""
    others = torch.cat((torch.where(sizes > 0, sizes, 1.0), sizes.new_ones((len(sizes), 1))), -1)
    return torch.where(sizes > 0, sizes, others.amin(-1, keepdim=True))


def conditions(problem: Discretised, at: Iterate, stage: Expansion) -> Conditions:
    """From the expansion of all stages at the iterate's points, by its weights."""
    size = problem.size
    end = expand_end(problem, at.states[:, -1], torch.cat((at.counted[:, None], at.pulls), -1))
    slope = stage.gradient.clone()
    slope[..., :size] -= at.costates[:, :-1]
    return Conditions(
        stage,
        end,
        stage.values[..., 1 : 1 + size] - at.states[:, 1:],
        slope,
        end.gradient - at.costates[:, -1],
        stage.values[..., 1 + size :] + at.slacks,
    )


@final
@dataclass(frozen=True)
class Residuals:
    """The largest violation of each optimality condition, one number per problem, compared with what it is made of.

    Attributes:
        dynamics: |F − x⁺| of each state over its mean size, or its largest value where that is below 1; where an end is
            to be reached, at least what it makes that miss.
        costate: |H_x − λ|, at the end |φ_x − λ_N|, of each state over a hundredth of its mean costate where that is
            above 1.
        control: |H_u| with the multipliers of bounds and path constraints, of each control over a hundredth of what
            costates push it with, where that is above 1.
        complementarity: slack times multiplier, over the cost where that is below 1.
        constraint: what exceeds bounds and path constraints, and |ψ|, of each component over the size of its terms
            where that is below 1.
    """

    dynamics: Tensor
    costate: Tensor
    control: Tensor
    complementarity: Tensor
    constraint: Tensor

    def worst(self) -> Tensor:
        """The largest of them."""
        found = self.dynamics
        for field in fields(self)[1:]:
            found = torch.maximum(found, getattr(self, field.name))
        return found

    def reshaped(self, shape: torch.Size) -> "Residuals":
        """For a batch of that shape."""
        return mapped(lambda part: part.reshape(shape), self)


@final
@dataclass(frozen=True)
class Units:
    """What residuals are compared with, so that they mean the same whatever states are measured in.

    A costate of the tenth of the stages where it is largest does not count: one multiplier without limit must not make
    everything small beside it. What is dual and of size 1 or less is compared with 1, in a problem of small cost with
    that cost; states and constraints that are small are compared with themselves, as far as rounding allows.

    Attributes:
        states: (B, nz).
        costates: (B, nz).
        controls: (B, m).
        cost: (B,).
        inequality: (B, p).
        target: (B, k).
    """

    states: Tensor
    costates: Tensor
    controls: Tensor
    cost: Tensor
    inequality: Tensor
    target: Tensor

    @staticmethod
    def of(at: Iterate, found: Conditions, tol: float) -> "Units":
        """At an iterate, for residuals that are to become smaller than `tol`."""
        size = at.states.shape[-1]
        pushed = (at.costates[:, 1:, None, :] @ found.stage.jacobian[..., 1 : 1 + size, size:])[..., 0, :]
        cost = found.stage.values[..., 0].abs().sum(-1) + found.end.values[..., 0].abs()
        least = cost.clamp(_LEAST_COST, 1.0)[:, None]
        rounding = min(1.0, _ROUNDING * torch.finfo(at.states.dtype).eps / tol)
        largest = at.states.abs().amax(1).clamp(rounding, 1.0)
        return Units(
            torch.where(at.sizes > 1, at.sizes, largest),
            torch.maximum(_SHARE * _usual(at.costates), least),
            torch.maximum(_SHARE * _usual(pushed), least),
            least[:, 0],
            _below_one(found.sizes_of_inequalities(at.points()), rounding),
            _below_one(at.end_sizes, rounding),
        )


def _below_one(sizes: Tensor, rounding: float) -> Tensor:
    """What is small is compared with itself, what is large with 1, both as far as rounding allows."""
    return torch.maximum(sizes.clamp(rounding, 1.0), rounding * sizes)


def _usual(values: Tensor) -> Tensor:
    """The mean size over stages (B, N, n), the tenth with the largest left out: (B, n)."""
    ordered = values.abs().sort(1).values
    return ordered[:, : max(1, 9 * ordered.shape[1] // 10)].mean(1)


def residuals(problem: Discretised, at: Iterate, found: Conditions, units: Units) -> Residuals:
    """Residuals of the problem itself, without a barrier."""
    size, free = problem.size, problem.free
    costate = torch.cat((found.slope[:, 1:, :size], found.end_slope[:, None]), 1) / units.costates[:, None]
    inner = costate.flatten(1)
    if free:
        edges = torch.stack((at.costates[:, 0], found.slope[:, 0, :size]), 1) / units.costates[:, None]
        inner = torch.cat((inner, edges[..., size - free :].flatten(1)), -1)
    return Residuals(
        _largest(found.gap / units.states[:, None]),
        _largest(inner),
        _largest(found.slope[..., size:] / units.controls[:, None]),
        complementarity(at, torch.zeros_like(at.barrier), units),
        torch.maximum(_largest(found.misfit / units.inequality[:, None]), _largest(found.target() / units.target)),
    )


def arriving(now: Residuals, at: Iterate, found: Conditions, units: Units, tol: float) -> Residuals:
    """With gaps that count at least as what they make the end miss, as far as rounding allows.

    So an end is reached by whoever follows the controls, in feet as in thousands of miles.
    """
    if not units.target.shape[-1]:
        return now
    rounding = min(1.0, _ROUNDING * torch.finfo(at.states.dtype).eps / tol)
    moved = (found.end.jacobian[..., 1:, :].abs() / units.target[..., None]).amax(-2)
    finest = torch.maximum(moved.reciprocal(), rounding * units.states)
    return replace(now, dynamics=_largest(found.gap / torch.minimum(units.states, finest)[:, None]))


def complementarity(at: Iterate, barrier: Tensor, units: Units) -> Tensor:
    """How far s · force is from a barrier, (B,)."""
    return _largest(at.slacks * at.forces - barrier[:, None, None]) / units.cost


def compared(found: Residuals, states: Tensor, costates: Tensor) -> Residuals:
    """Dynamics over the mean state and all that is dual over a hundredth of the mean costate, where those exceed 1."""
    length = states.abs().mean((1, 2)).clamp(min=1.0)
    worth = (_SHARE * _usual(costates).mean(1)).clamp(min=1.0)
    return Residuals(
        found.dynamics / length,
        found.costate / worth,
        found.control / worth,
        found.complementarity / worth,
        found.constraint,
    )


def _largest(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    return flat.abs().amax(-1) if flat.shape[-1] else flat.new_zeros(len(flat))

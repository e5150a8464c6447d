"""Where a search stands: the fields of every problem of a batch, and what the residuals say of them."""

from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from worldsheet.control.compiled.execution import mapped
from worldsheet.control.derivatives import Expansion
from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_end


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
        shift: added to the Hessians in the last step, (B,).
        weight: of the constraints in the merit function, (B,).
        failures: ticks without progress in a row, (B,).
        past: merit of the last ticks as (cost with barrier, violation), (B, M, 2), infinite where there was none.
    """

    states: Tensor
    costates: Tensor
    controls: Tensor
    slacks: Tensor
    forces: Tensor
    pulls: Tensor
    barrier: Tensor
    shift: Tensor
    weight: Tensor
    failures: Tensor
    past: Tensor

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
        return torch.cat((one, self.costates[:, 1:], self.forces), -1)


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

    def inequality(self) -> Tensor:
        """G, (B, N, p)."""
        return self.stage.values[..., 1 + self.gap.shape[-1] :]

    def target(self) -> Tensor:
        """ψ, (B, k)."""
        return self.end.values[..., 1:]


def conditions(problem: Discretised, at: Iterate, stage: Expansion) -> Conditions:
    """From the expansion of all stages at the iterate's points, by its weights."""
    size = problem.size
    end = expand_end(problem, at.states[:, -1], at.pulls)
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
    """The largest violation of each optimality condition, one number per problem.

    Attributes:
        dynamics: |F − x⁺|, in units of the state.
        costate: |H_x − λ|, at the end |φ_x − λ_N|, in units of cost per state.
        control: |H_u| with the multipliers of bounds and path constraints, in units of cost per control.
        complementarity: slack times multiplier.
        constraint: what exceeds bounds and path constraints, and |ψ|.
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

    def relative(self, states: Tensor, costates: Tensor) -> Tensor:
        """The largest residual, (B,), in units that fit the fields.

        Dynamics are compared with the mean state where that is above 1; costates, controls and products with a
        hundredth of the mean costate where that is above 1; constraints with nothing. The tenth of the stages with the
        largest costates does not count: one multiplier without limit must not make everything small beside it.
        """
        length = states.abs().mean((1, 2)).clamp(min=1.0)
        stages = costates.abs().mean(2).sort(1).values
        worth = (0.01 * stages[:, : max(1, 9 * stages.shape[1] // 10)].mean(1)).clamp(min=1.0)
        dual = torch.maximum(torch.maximum(self.costate, self.control), self.complementarity)
        return torch.maximum(torch.maximum(self.dynamics / length, dual / worth), self.constraint)

    def reshaped(self, shape: torch.Size) -> "Residuals":
        """For a batch of that shape."""
        return mapped(lambda part: part.reshape(shape), self)


def residuals(problem: Discretised, at: Iterate, found: Conditions) -> Residuals:
    """Residuals of the problem itself, without a barrier."""
    size, free = problem.size, problem.free
    inner = torch.cat((found.slope[:, 1:, :size].flatten(1), found.end_slope, at.costates[:, 0, size - free :]), -1)
    if free:
        inner = torch.cat((inner, found.slope[:, 0, size - free : size]), -1)
    return Residuals(
        _largest(found.gap),
        _largest(inner),
        _largest(found.slope[..., size:]),
        complementarity(at, torch.zeros_like(at.barrier)),
        torch.maximum(_largest(found.misfit), _largest(found.target())),
    )


def complementarity(at: Iterate, barrier: Tensor) -> Tensor:
    """How far s · force is from a barrier, (B,)."""
    return _largest(at.slacks * at.forces - barrier[:, None, None])


def _largest(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    return flat.abs().amax(-1) if flat.shape[-1] else flat.new_zeros(len(flat))

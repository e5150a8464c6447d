"""The problem near a point: quadratic cost and linear dynamics, driven by the residuals."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Quadratic:
    """Newton's equations of all stages, stage first: (N, B, ...), so that one stage is one block of memory.

        δx_{k+1} = A δx + B δu + r,      δλ = Q δx + Sᵀ δu + Aᵀ δλ⁺ + g,      0 = S δx + R δu + Bᵀ δλ⁺ + e        (22)

    with r, g, e the state, costate and control residuals, and δλ_N = P_N δx_N + g_N at the end.

    Attributes:
        hessian: [[Q, Sᵀ], [S, R]], (N, B, n + m, n + m).
        slope: (g, e), (N, B, n + m).
        transition: [A, B], (N, B, n, n + m).
        gap: r, (N, B, n).
        end_hessian: P_N, (B, n, n).
        end_slope: g_N, (B, n).
        regularizer: what one unit of regularisation adds to the Hessians' diagonals, (B, n + m).
        opening: what it adds to the first of them besides, at the states that are chosen, (B, n), or (B, 0).
    """

    hessian: Tensor
    slope: Tensor
    transition: Tensor
    gap: Tensor
    end_hessian: Tensor
    end_slope: Tensor
    regularizer: Tensor
    opening: Tensor

    @property
    def state_size(self) -> int:
        """n, the size of a state."""
        return self.gap.shape[-1]

    def lifted(self, shift: Tensor) -> "Quadratic":
        """With shift (B,) times `regularizer` added to the diagonal of every Hessian, and `opening` to the first."""
        size, added = self.state_size, torch.diag_embed(shift[:, None] * self.regularizer)
        hessian = self.hessian + added
        if self.opening.shape[-1]:
            more = torch.nn.functional.pad(shift[:, None] * self.opening, (0, added.shape[-1] - size))
            hessian = torch.cat((hessian[:1] + torch.diag_embed(more), hessian[1:]))
        return replace(
            self,
            hessian=hessian,
            end_hessian=self.end_hessian + added[:, :size, :size],
        )

    def select(self, index: Tensor) -> "Quadratic":
        """Some of the problems, or copies of them."""
        stages = (self.hessian[:, index], self.slope[:, index], self.transition[:, index], self.gap[:, index])
        ends = (self.end_hessian[index], self.end_slope[index], self.regularizer[index], self.opening[index])
        return Quadratic(*stages, *ends)


@final
@dataclass(frozen=True)
class Matched:
    """The impedance that reflects nothing, and the control that follows from it, stage first.

        δλ_k = P_k δx_k + p_k,      δu_k = K_k δx_k + k_k                                                       (23)

    Attributes:
        impedance: P, (N + 1, B, n, n).
        source: p, (N + 1, B, n).
        gains: K, (N, B, m, n).
        push: k, (N, B, m).
        convex: whether every R + BᵀPB is positive definite, (B,): then the step is a minimum, not a saddle.
    """

    impedance: Tensor
    source: Tensor
    gains: Tensor
    push: Tensor
    convex: Tensor


@final
@dataclass(frozen=True)
class Step:
    """A Newton step, stage first.

    Attributes:
        states: δx, (N + 1, B, n).
        costates: δλ, (N + 1, B, n).
        controls: δu, (N, B, m).
        gains: K, (N, B, m, n).
    """

    states: Tensor
    costates: Tensor
    controls: Tensor
    gains: Tensor

    def select(self, index: Tensor) -> "Step":
        """Some of the problems, or copies of them."""
        return Step(self.states[:, index], self.costates[:, index], self.controls[:, index], self.gains[:, index])


def control_gain(block: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """−R⁻¹ of sides (..., m, k), and where R (..., m, m) is positive definite; elsewhere the gain is useless."""
    if block.shape[-1] == 0:
        return sides, torch.ones(block.shape[:-2], dtype=torch.bool, device=block.device)
    if block.shape[-1] == 1:
        return sides / -block, block[..., 0, 0] > 0
    factor, info = torch.linalg.cholesky_ex(block)
    return torch.cholesky_solve(-sides, factor), info == 0

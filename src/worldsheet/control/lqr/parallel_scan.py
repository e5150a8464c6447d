"""A horizon as a cable of scatterers: the Riccati recursion in log N products instead of N steps."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.lqr.subproblem import Matched, Quadratic, control_gain
from worldsheet.recurrence import solve_bidiagonal


@final
@dataclass(frozen=True)
class ScanElement:
    """What pieces of the horizon make of the waves that reach them, x from the left and λ from the right.

        x_right = A x_left − C λ_right + b,       λ_left = J x_left + Aᵀ λ_right + j                            (25)

    A lets through, C and J reflect, b and j are sources; C and J are symmetric.

    Attributes:
        packed: [A C b J j], (K, n, 3n + 2), one piece after the other.
    """

    packed: Tensor

    @staticmethod
    def of(through: Tensor, far: Tensor, ahead: Tensor, near: Tensor, back: Tensor) -> "ScanElement":
        """From A, C (K, n, n), b (K, n, 1), J and j."""
        return ScanElement(torch.cat((through, far, ahead, near, back), -1))

    @property
    def _size(self) -> int:
        return self.packed.shape[-2]

    @property
    def through(self) -> Tensor:
        """A: what comes through."""
        return self.packed[..., : self._size]

    @property
    def far(self) -> Tensor:
        """C: what comes back from the right."""
        return self.packed[..., self._size : 2 * self._size]

    @property
    def ahead(self) -> Tensor:
        """b: what starts to the right."""
        return self.packed[..., 2 * self._size : 2 * self._size + 1]

    @property
    def onward(self) -> Tensor:
        """[A C b]."""
        return self.packed[..., : 2 * self._size + 1]

    @property
    def near(self) -> Tensor:
        """J: what comes back from the left."""
        return self.packed[..., -self._size - 1 : -1]

    @property
    def back(self) -> Tensor:
        """j: what starts to the left."""
        return self.packed[..., -1:]


def combine(left: ScanElement, right: ScanElement) -> ScanElement:
    """Neighbouring pieces as one: the Redheffer star product, all echoes between them summed.

    The echoes are the geometric series Σ (−C J)^i = (1 + C J)⁻¹ with the left piece's C and the right piece's J.
    """
    size = left.packed.shape[-2]
    through, near, back = right.through, right.near, right.back
    eye = torch.eye(size, dtype=near.dtype, device=near.device).expand_as(near)
    meeting: Tensor = torch.linalg.solve_ex(torch.baddbmm(eye, left.far, near), left.onward).result
    onto, leaking, pushed = meeting[..., :size], meeting[..., size : 2 * size], meeting[..., 2 * size :]
    pushed = torch.baddbmm(pushed, leaking, back, alpha=-1)
    returned = torch.bmm(left.through.mT, near)
    return ScanElement.of(
        torch.bmm(through, onto),
        torch.baddbmm(right.far, torch.bmm(through, leaking), through.mT),
        torch.baddbmm(right.ahead, through, pushed),
        torch.baddbmm(left.near, returned, onto),
        torch.baddbmm(left.back, returned, pushed).baddbmm_(left.through.mT, back),
    )


def associative_scan(pieces: ScanElement, stride: int) -> ScanElement:
    """Every piece joined with all pieces to its right, in log K products of at most K pieces.

    Args:
        pieces: cables one beside the other: pieces k, k + stride, k + 2·stride, … are neighbours.
        stride: how many cables there are.
    """
    packed = pieces.packed
    while stride < len(packed):
        whole = combine(ScanElement(packed[:-stride]), ScanElement(packed[stride:])).packed
        packed = torch.cat((whole, packed[-stride:]))
        stride *= 2
    return ScanElement(packed)


def matched_by_scattering(local: Quadratic) -> Matched:
    """P and p as what the rest of the horizon reflects, for all stages at once; K and k follow stage by stage.

    The control is eliminated in each stage by itself, which needs an invertible R.
    """
    size, (stages, batch) = local.state_size, local.gap.shape[:2]
    nothing, slope = torch.zeros_like(local.end_hessian), local.end_slope[..., None]
    ends = ScanElement.of(nothing, nothing, torch.zeros_like(slope), local.end_hessian, slope)
    whole = associative_scan(ScanElement(torch.cat((_elements(local).packed, ends.packed))), batch)
    impedance = 0.5 * (whole.near + whole.near.mT)
    transition, ahead = local.transition.flatten(0, 1), impedance[batch:]
    hessian = local.hessian.flatten(0, 1).baddbmm(transition.mT, torch.bmm(ahead, transition))
    arriving = torch.baddbmm(whole.back[batch:], ahead, local.gap.reshape(-1, size, 1))
    pushed = local.slope.reshape(*hessian.shape[:2], 1).baddbmm(transition.mT, arriving)
    law, convex = control_gain(hessian[:, size:, size:], torch.cat((hessian[:, size:, :size], pushed[:, size:]), -1))
    return Matched(
        impedance.view(stages + 1, batch, size, size),
        whole.back.reshape(stages + 1, batch, size),
        law[..., :size].reshape(stages, batch, *law.shape[1:-1], size),
        law[..., size].reshape(stages, batch, *law.shape[1:-1]),
        convex.reshape(stages, batch).all(0),
    )


def rollout_by_scattering(closed: Tensor, drift: Tensor, start: Tensor) -> Tensor:
    """x_{k+1} = C_k x_k + c_k for all k, (N + 1, B, n), in log N rounds: nothing comes from the right."""
    first = drift[:1] + torch.matmul(closed[:1], start[None, ..., None])[..., 0]
    return torch.cat((start[None], solve_bidiagonal(closed, torch.cat((first, drift[1:])))))


def _elements(local: Quadratic) -> ScanElement:
    """Every stage by itself, (N·B) pieces: the control out of S δx + R δu + Bᵀ δλ⁺ + e = 0."""
    size = local.state_size
    transition, hessian = local.transition.flatten(0, 1), local.hessian.flatten(0, 1)
    across, through = hessian[..., :size, size:], transition[..., size:]
    slope = local.slope.flatten(0, 1)[..., None]
    solved = _solved(hessian[..., size:, size:], torch.cat((across.mT, slope[:, size:], through.mT), -1))
    gains, push, shunt = solved[..., :size], solved[..., size : size + 1], solved[..., size + 1 :]
    return ScanElement.of(
        torch.baddbmm(transition[..., :size], through, gains, alpha=-1),
        torch.bmm(through, shunt),
        torch.baddbmm(local.gap.reshape(-1, size, 1), through, push, alpha=-1),
        torch.baddbmm(hessian[..., :size, :size], across, gains, alpha=-1),
        torch.baddbmm(slope[:, :size], across, push, alpha=-1),
    )


def _solved(block: Tensor, sides: Tensor) -> Tensor:
    if block.shape[-1] == 1:
        return sides / block
    solved: Tensor = torch.linalg.solve_ex(block, sides).result
    return solved

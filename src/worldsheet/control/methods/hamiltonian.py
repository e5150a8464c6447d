"""The control that minimises the Hamiltonian where state and costate are given: u out of H_u = 0."""

import torch
from torch import Tensor

from worldsheet.control.derivatives import curvature
from worldsheet.control.discretized import Discretised


def weights(problem: Discretised, costates: Tensor) -> Tensor:
    """What makes H = L + λᵀF of the values (L, F, G): (B, N, 1 + nz + p)."""
    ahead = costates[:, 1:]
    rest = problem.limits.count
    return torch.cat((ahead.new_ones((*ahead.shape[:-1], 1)), ahead, ahead.new_zeros((*ahead.shape[:-1], rest))), -1)


def control_curvature(
    problem: Discretised, states: Tensor, controls: Tensor, costates: Tensor
) -> tuple[Tensor, Tensor]:
    """H_u (B, N, m) and H_uu (B, N, m, m) at every stage."""
    before = states[:, :-1]

    def of_control(control: Tensor) -> Tensor:
        return problem.stages(torch.cat((before.expand(*control.shape[:-1], -1), control), -1))

    return curvature(of_control, controls, weights(problem, costates))


def improved(problem: Discretised, controls: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """One projected Newton step on min_u H per stage, exact where H is quadratic in u and no bound is met.

    Controls that lean on a bound, H_u pushing outward, stay; the others solve H_uu δu = −H_u among themselves.
    """
    low, high = problem.bounds
    held = ((controls <= low) & (slope > 0)) | ((controls >= high) & (slope < 0))
    slope = torch.where(held, 0.0, slope)
    if controls.shape[-1] == 1:
        step = slope / bend[..., 0]
    else:
        eye = torch.eye(bend.shape[-1], dtype=bend.dtype, device=bend.device)
        free = torch.where(held[..., None] | held[..., None, :], eye, bend)
        step = torch.linalg.solve_ex(free, slope[..., None]).result[..., 0]
    return (controls - step).clamp(low, high)


def stationarity(problem: Discretised, controls: Tensor, slope: Tensor) -> Tensor:
    """|u − P(u − H_u)|, the largest per problem (B,): zero where no allowed control is better to first order."""
    low, high = problem.bounds
    gap = controls - (controls - slope).clamp(low, high)
    return gap.abs().flatten(1).amax(-1) if gap.shape[-1] else gap.new_zeros(len(gap))


def convexified(bend: Tensor) -> Tensor:
    """H_uu with its eigenvalues made positive, so that a step goes down."""
    if bend.shape[-1] == 0:
        return bend
    if bend.shape[-1] == 1:
        return bend.abs().clamp(min=1e-9)
    values, vectors = torch.linalg.eigh(bend.nan_to_num(0.0, 0.0, 0.0))
    positive: Tensor = (vectors * values.abs().clamp(min=1e-9)[..., None, :]) @ vectors.mT
    return positive

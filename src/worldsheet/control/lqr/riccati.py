"""The Riccati recursion: the impedance that matches the rest of the horizon, found from the end to the start."""

import torch
from torch import Tensor

from worldsheet.control.lqr.parallel_scan import rollout_by_scattering
from worldsheet.control.lqr.subproblem import Matched, Quadratic, Step, control_gain

FEW_PROBLEMS = 16  # below it a tick costs its number of operations, so that log N products beat N short ones


def matched_by_recursion(local: Quadratic) -> Matched:
    """P and p from the end to the start, one stage after the other, packed into one matrix of (δx, 1, δu).

        [P p; pᵀ ·] = H_xx − H_xu H_uu⁻¹ H_ux,     H = W + [A r B]ᵀ [P⁺ p⁺; p⁺ᵀ ·] [A r B]                     (24)

    Cost: N times a dozen small batched operations.
    """
    size = local.state_size
    row = size + 1
    impedance = _bordered(local.end_hessian, local.end_slope)
    hessians, transitions = _packed(local)
    values, gains, convex = [impedance], [], []
    for hessian, transition in zip(hessians.flip(0), transitions.flip(0), strict=True):
        whole = torch.baddbmm(hessian, transition.mT, torch.bmm(impedance, transition))
        gain, fine = control_gain(whole[:, row:, row:], whole[:, row:, :row])
        impedance = torch.baddbmm(whole[:, :row, :row], whole[:, :row, row:], gain)
        impedance = 0.5 * (impedance + impedance.mT)
        values.append(impedance)
        gains.append(gain)
        convex.append(fine)
    value, law = torch.stack(values[::-1]), torch.stack(gains[::-1])
    return Matched(
        value[..., :size, :size], value[..., :size, size], law[..., :size], law[..., size], torch.stack(convex).all(0)
    )


def _bordered(matrix: Tensor, vector: Tensor) -> Tensor:
    """[M v; vᵀ 0]."""
    below = torch.nn.functional.pad(vector, (0, 1))[..., None, :]
    return torch.cat((torch.cat((matrix, vector[..., None]), -1), below), -2)


def _packed(local: Quadratic) -> tuple[Tensor, Tensor]:
    """[Q g Sᵀ; gᵀ 0 eᵀ; S e R] and [A r B; 0 1 0]."""
    size = local.state_size
    order = [*range(size), local.hessian.shape[-1], *range(size, local.hessian.shape[-1])]
    hessian = _bordered(local.hessian, local.slope)[..., order, :][..., order]
    transition = torch.cat((local.transition, local.gap[..., None]), -1)[..., order]
    one = torch.zeros_like(transition[..., :1, :])
    one[..., size] = 1
    return hessian, torch.cat((transition, one), -2)


def rollout_of(local: Quadratic, matched: Matched, start: Tensor) -> Step:
    """Follow the matched control law from δx_0 (B, n): the wave that goes up and meets no reflection."""
    size = local.state_size
    onto, through = local.transition[..., :size], local.transition[..., size:]
    closed = onto + through @ matched.gains
    drift = local.gap + (through @ matched.push[..., None])[..., 0]
    if start.shape[0] < FEW_PROBLEMS:
        states = rollout_by_scattering(closed, drift, start)
    else:
        states = _rollout(closed, drift, start)
    costates = (matched.impedance @ states[..., None])[..., 0] + matched.source
    controls = (matched.gains @ states[:-1, ..., None])[..., 0] + matched.push
    return Step(states, costates, controls, matched.gains)


def _rollout(closed: Tensor, drift: Tensor, start: Tensor) -> Tensor:
    """x_{k+1} = C_k x_k + c_k, stage by stage."""
    state, found = start[..., None], [start[..., None]]
    for matrix, push in zip(closed, drift[..., None], strict=True):
        state = torch.baddbmm(push, matrix, state)
        found.append(state)
    return torch.stack(found)[..., 0]

"""The Riccati recursion: the impedance that matches the rest of the horizon, found from the end to the start."""

import torch
from torch import Tensor

from worldsheet.control.quadratic import Matched, Quadratic, Step, control_law
from worldsheet.control.scattering import matched_by_scattering, rollout_by_scattering

_FEW_PROBLEMS = 16  # below it a tick costs its number of operations, so that log N products beat N short ones


def match(local: Quadratic) -> Matched:
    """Find the matched impedance: side by side by products of scatterers for few problems, else stage by stage."""
    if local.gap.shape[1] < _FEW_PROBLEMS:
        found = matched_by_scattering(local)
        if bool(found.impedance.isfinite().all()):
            return found
    return matched_by_recursion(local)


def matched_by_recursion(local: Quadratic) -> Matched:
    """P and p from the end to the start, one stage after the other.

        [P p; pᵀ ·] = H_xx − H_xu H_uu⁻¹ H_ux,     H = W + [A r B]ᵀ [P⁺ p⁺; p⁺ᵀ ·] [A r B]                     (24)

    Cost: N times eight small batched operations.
    """
    size, stages = local.state_size, len(local.gap)
    impedance, source, convex = local.end_hessian, local.end_slope, None
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for k in range(stages - 1, -1, -1):
        transition = local.transition[k]
        carried = torch.bmm(impedance, transition)
        hessian = torch.baddbmm(local.hessian[k], transition.mT, carried)
        arriving = source + torch.bmm(impedance, local.gap[k][..., None])[..., 0]
        slope = local.slope[k] + torch.bmm(transition.mT, arriving[..., None])[..., 0]
        gains, push, fine = control_law(hessian, slope, size)
        across = hessian[..., :size, size:]
        impedance = torch.baddbmm(hessian[..., :size, :size], across, gains)
        impedance = 0.5 * (impedance + impedance.mT)
        source = slope[..., :size] + torch.bmm(across, push[..., None])[..., 0]
        convex = fine if convex is None else convex & fine
        found.append((impedance, source, gains, push))
    found.reverse()
    parts = [torch.stack(part) for part in zip(*found, strict=True)]
    return Matched(
        torch.cat((parts[0], local.end_hessian[None])),
        torch.cat((parts[1], local.end_slope[None])),
        parts[2],
        parts[3],
        convex if convex is not None else torch.ones(0, dtype=torch.bool),
    )


def ride(local: Quadratic, matched: Matched, start: Tensor) -> Step:
    """Follow the matched control law from δx_0 (B, n): the wave that goes up and meets no reflection."""
    size = local.state_size
    onto, through = local.transition[..., :size], local.transition[..., size:]
    closed = onto + through @ matched.gains
    drift = local.gap + (through @ matched.push[..., None])[..., 0]
    if start.shape[0] < _FEW_PROBLEMS:
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

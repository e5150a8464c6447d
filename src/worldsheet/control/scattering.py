"""A horizon as a cable of scatterers: the Riccati recursion in log N products instead of N steps."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.quadratic import Matched, Quadratic, control_law
from worldsheet.control.records import mapped


@final
@dataclass(frozen=True)
class Scatterer:
    """What a piece of the horizon makes of the waves that reach it, x from the left and λ from the right.

        x_right = A x_left − C λ_right + b,       λ_left = J x_left + Aᵀ λ_right + j                            (25)

    A lets through, C and J reflect, b and j are sources; C and J are symmetric. Leading dimension: the pieces.

    Attributes:
        through: A, (K, B, n, n).
        far: C, what the right side reflects, (K, B, n, n).
        near: J, what the left side reflects, (K, B, n, n).
        ahead: b, (K, B, n, 1).
        back: j, (K, B, n, 1).
    """

    through: Tensor
    far: Tensor
    near: Tensor
    ahead: Tensor
    back: Tensor


def joined(left: Scatterer, right: Scatterer) -> Scatterer:
    """Two neighbouring pieces as one: the Redheffer star product, all echoes between them summed.

    The echoes are the geometric series Σ (−C J)^i = (1 + C J)⁻¹ with the left piece's C and the right piece's J.
    """
    size = left.through.shape[-1]
    eye = torch.eye(size, dtype=left.through.dtype, device=left.through.device)
    sides = torch.cat((left.through, left.far, left.ahead - left.far @ right.back), -1)
    meeting = torch.linalg.solve_ex(eye + left.far @ right.near, sides).result
    onto, pushed = meeting[..., :size], meeting[..., 2 * size :]
    sent = right.through @ meeting
    returned = left.through.mT @ right.near
    far = sent[..., size : 2 * size] @ right.through.mT + right.far
    near = left.near + returned @ onto
    return Scatterer(
        sent[..., :size],
        0.5 * (far + far.mT),
        0.5 * (near + near.mT),
        sent[..., 2 * size :] + right.ahead,
        left.back + left.through.mT @ (right.back + right.near @ pushed),
    )


def to_the_end(pieces: Scatterer) -> Scatterer:
    """Every piece joined with all pieces to its right: pairs first, then what lies between them."""
    count = len(pieces.through)
    if count == 1:
        return pieces
    first = count % 2  # with an odd count, the first piece has no partner
    pairs = to_the_end(joined(_cut(pieces, slice(first, None, 2)), _cut(pieces, slice(first + 1, None, 2))))
    last = _cut(pieces, slice(-1, None))
    lonely = _cut(pieces, slice(1 - first, -1, 2))
    later = _cut(pairs, slice(1 - first, None))
    others = _append(joined(lonely, later), last) if len(lonely.through) else last
    return _woven(others, pairs) if first else _woven(pairs, others)


def matched_by_scattering(local: Quadratic) -> Matched:
    """P and p as what the rest of the horizon reflects, for all stages at once; K and k follow stage by stage.

    The control is eliminated in each stage by itself, which needs an invertible R.
    """
    size = local.state_size
    count = len(local.gap)
    onto, through = local.transition[..., :size], local.transition[..., size:]
    gains, push = _eliminated(local.hessian, local.slope, size)
    across = local.hessian[..., :size, size:]
    shunt = _solved(local.hessian[..., size:, size:], through.mT)
    stages = Scatterer(
        onto + through @ gains,
        through @ shunt,
        local.hessian[..., :size, :size] + across @ gains,
        (local.gap + (through @ push[..., None])[..., 0])[..., None],
        (local.slope[..., :size] + (across @ push[..., None])[..., 0])[..., None],
    )
    zero = torch.zeros_like(local.end_hessian)[None]
    end = Scatterer(zero, zero, local.end_hessian[None], zero[..., :1], local.end_slope[None, ..., None])
    whole = to_the_end(_append(stages, end))
    impedance, source = whole.near, whole.back[..., 0]
    carried = impedance[1:] @ local.transition
    hessian = local.hessian + local.transition.mT @ carried
    arriving = source[1:] + (impedance[1:] @ local.gap[..., None])[..., 0]
    slope = local.slope + (local.transition.mT @ arriving[..., None])[..., 0]
    gains, push, convex = control_law(hessian, slope, size)
    return Matched(impedance, source, gains, push, convex.all(0) if count else convex.new_ones(0))


def rollout_by_scattering(closed: Tensor, drift: Tensor, start: Tensor) -> Tensor:
    """x_{k+1} = C_k x_k + c_k for all k, (N + 1, B, n), in log N products: maps composed from the left."""
    state = start[None, ..., None]
    matrices, pushes = _from_the_start(closed, drift[..., None])
    states: Tensor = matrices @ state + pushes
    return torch.cat((state, states))[..., 0]


def _from_the_start(matrices: Tensor, pushes: Tensor) -> tuple[Tensor, Tensor]:
    """Every affine map composed with all maps before it."""
    reach = 1
    while reach < len(matrices):
        later, earlier = matrices[reach:], matrices[:-reach]
        pushes = torch.cat((pushes[:reach], later @ pushes[:-reach] + pushes[reach:]))
        matrices = torch.cat((matrices[:reach], later @ earlier))
        reach *= 2
    return matrices, pushes


def _eliminated(hessian: Tensor, slope: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """−R⁻¹S and −R⁻¹e of every stage by itself."""
    sides = torch.cat((hessian[..., size:, :size], slope[..., size:, None]), -1)
    solved = _solved(hessian[..., size:, size:], sides)
    return -solved[..., :size], -solved[..., size]


def _solved(block: Tensor, sides: Tensor) -> Tensor:
    if block.shape[-1] == 1:
        return sides / block
    solved: Tensor = torch.linalg.solve_ex(block, sides).result
    return solved


def _cut(pieces: Scatterer, chosen: slice) -> Scatterer:
    return mapped(lambda part: part[chosen], pieces)


def _append(pieces: Scatterer, last: Scatterer) -> Scatterer:
    return mapped(lambda one, other: torch.cat((one, other)), pieces, last)


def _woven(first: Scatterer, second: Scatterer) -> Scatterer:
    """Pieces of two sequences in turns."""

    def weave(one: Tensor, other: Tensor) -> Tensor:
        whole = one.new_empty((len(one) + len(other), *one.shape[1:]))
        whole[::2], whole[1::2] = one, other
        return whole

    return mapped(weave, first, second)

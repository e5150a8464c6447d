"""Linear recurrences for all steps at once: block-bidiagonal systems by cyclic reduction."""

import torch
from torch import Tensor

from worldsheet.recurrence.types import States

_SMALL = 8  # steps that are cheaper one by one


def solve_bidiagonal(matrices: Tensor, sources: States) -> States:
    """x_t = A_t x_{t−1} + b_t with x_{−1} = 0, in 2 log₂ T rounds and at most 2 T products of matrices.

        x_{2i+1} = (A_{2i+1} A_{2i}) x_{2i−1} + A_{2i+1} b_{2i} + b_{2i+1},     x_{2i} = A_{2i} x_{2i−1} + b_{2i}   (42)

    Pairs of steps become one, until few are left; then every other state follows from its neighbour.

    Args:
        matrices: A, (T, B, n, n), or (T, B, n) where they are diagonal.
        sources: b, (T, B, n).
    """
    steps = len(sources)
    if steps <= _SMALL:
        return _one_by_one(matrices, sources)
    pairs = steps // 2
    first, second = matrices[0 : 2 * pairs : 2], matrices[1 : 2 * pairs : 2]
    merged = sources[1 : 2 * pairs : 2] + _applied(second, sources[0 : 2 * pairs : 2])
    later = solve_bidiagonal(_composed(second, first), merged)
    states = torch.empty_like(sources)
    states[1 : 2 * pairs : 2] = later
    states[0] = sources[0]
    states[2::2] = sources[2::2] + _applied(matrices[2::2], later[: (steps - 1) // 2])
    return states


def solve_transposed(matrices: Tensor, sources: States) -> States:
    """The same from the other end, which is one reverse scan.

        λ_t = A_{t+1}ᵀ λ_{t+1} + g_t,     λ_T = 0                                                                   (43)

    A_0 is not read; of complex matrices the conjugates count, as in torch.
    """
    later = torch.cat((torch.zeros_like(matrices[:1]), matrices[1:].flip(0)))
    later = later.mH if matrices.dim() > sources.dim() else later.conj()
    return solve_bidiagonal(later, sources.flip(0)).flip(0)


def growth_exponent(matrices: Tensor) -> float:
    """How fast deviations grow, the most of the batch: Lyapunov's exponent as T grows.

        (1/T) log ‖A_{T−1} ⋯ A_0‖                                                                                   (44)

    Products are made pairwise, each divided by its norm.
    """
    steps, logs = len(matrices), matrices.new_zeros(matrices.shape[1], dtype=matrices.real.dtype)
    if matrices.dim() == 3:
        return float(matrices.abs().clamp(min=torch.finfo(matrices.dtype).tiny).log().mean(0).max())
    while len(matrices) > 1:
        odd = matrices[-1:] if len(matrices) % 2 else matrices[:0]
        pairs = len(matrices) // 2
        matrices = torch.cat((_composed(matrices[1 : 2 * pairs : 2], matrices[0 : 2 * pairs : 2]), odd))
        norms = torch.linalg.matrix_norm(matrices).clamp(min=torch.finfo(logs.dtype).tiny)
        matrices, logs = matrices / norms[..., None, None], logs + norms.log().sum(0)
    return float((logs + torch.linalg.matrix_norm(matrices[0]).log()).max()) / steps


def _one_by_one(matrices: Tensor, sources: States) -> States:
    states = [sources[0]]
    for matrix, source in zip(matrices[1:], sources[1:], strict=True):
        states.append(source + _applied(matrix, states[-1]))
    return torch.stack(states)


def _applied(matrices: Tensor, vectors: Tensor) -> Tensor:
    return matrices * vectors if matrices.dim() == vectors.dim() else torch.matmul(matrices, vectors[..., None])[..., 0]


def _composed(later: Tensor, earlier: Tensor) -> Tensor:
    return later * earlier if later.dim() == 3 else torch.matmul(later, earlier)

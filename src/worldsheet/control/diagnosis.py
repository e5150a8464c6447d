"""Why a search did not end at a solution, where the problem itself is the reason."""

from dataclasses import replace

import torch
from torch import Tensor

from worldsheet.control.derivatives import Local
from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.initial_guess import middle
from worldsheet.control.methods.result import RawResult, Termination
from worldsheet.control.methods.stagewise import cost_of

_ENOUGH = 30  # ticks that have to be spent before it is worth a few more to know why
_WITHOUT_LIMIT = -1e8  # a cost below it falls for ever
_GROWTH = 1.5  # of a mode that decays, within one stage
_FAR, _NEAR = 0.03, 0.003  # distances at which derivatives are compared, relative to the size of what is moved
_CLOSE = 10.0  # residuals above it say that the search ended nowhere, so that nothing is to be learned there
_KINK = 1e-2  # the least change of a derivative over the shorter distance that counts


@torch.no_grad()
def diagnosed(problem: Discretised, found: RawResult) -> RawResult:
    """With the reasons of problems that are not solved, as far as they can be told from where they stopped.

    Four are looked for, the first that applies is told: a cost without a lower limit; an implicit integrator whose
    equations Newton's method does not solve; an explicit one that makes grow what decays; and functions with kinks,
    whose derivatives differ as much over a short distance as over a long one. A search that was given few ticks, as in
    a control loop, ended for want of them and is left alone, unless its fields overflowed.

    Cost: 4 (n + m) evaluations of the unsolved problems with first derivatives, and eigenvalues of ∂f/∂x at the start.
    """
    ended = found.terminations
    enough = (found.ticks >= _ENOUGH) | (ended == Termination.OVERFLOWED)
    lost = (ended != Termination.CONVERGED) & (ended != Termination.NO_START) & enough
    some = lost.nonzero().flatten()
    if not len(some):
        return found
    part, states, controls = problem.select(some), found.states[some], found.controls[some]
    reason = ended[some]
    points = torch.cat((states[:, :-1], controls), -1)
    near = found.residuals.worst()[some] < _CLOSE
    looked = points.isfinite().flatten(1).all(1)
    points = torch.where(looked[:, None, None], points, 0.0)
    for holds, name in (
        (looked & near & has_kinks(part, points), Termination.NOT_SMOOTH),
        (is_unstable(part), Termination.UNSTABLE),
        (is_unsolved(part), Termination.UNSOLVED),
        (cost_of(part, states, controls) < _WITHOUT_LIMIT, Termination.UNBOUNDED),
    ):
        reason = torch.where(holds, name.value, reason)
    return replace(found, terminations=ended.index_copy(0, some, reason))


def is_unstable(problem: Discretised) -> Tensor:
    """Whether an explicit method makes a decaying mode grow at the initial states, (B,).

    R(z) = 1 + z bᵀ(1 + z A + z² A² + …) 1 at the eigenvalues z of dt ∂f/∂x with a negative real part. Where a search
    has lost its way says nothing about that.
    """
    table, size = problem.integrator.tableau, problem.size
    if table is None:
        return torch.zeros(len(problem.start), dtype=torch.bool, device=problem.start.device)
    point = _beginning(problem)
    here = problem.instant(0)
    slope = Local(lambda each: here.rates(each, 0.0), point, size + 1).jacobian()[..., :size, :size]
    modes = torch.linalg.eigvals(slope.nan_to_num(0.0, 0.0, 0.0))
    rates: list[Tensor] = []
    for row in table.inner:
        inside = torch.ones_like(modes)
        for weight, rate in zip(row, rates, strict=False):
            inside = inside + weight * rate
        rates.append(modes * inside)
    growth = torch.ones_like(modes)
    for weight, rate in zip(table.outer, rates, strict=True):
        growth = growth + weight * rate
    unstable: Tensor = (growth.abs() > _GROWTH) & (modes.real < 0)
    return unstable.flatten(1).any(1)


def is_unsolved(problem: Discretised) -> Tensor:
    """Whether an implicit method makes no number of the initial states where the rates are numbers, (B,)."""
    point, here = _beginning(problem), problem.instant(0)
    known = here.rates(point, 0.0).isfinite().flatten(1).all(1)
    return known & here.carried(point).isnan().flatten(1).any(1) if problem.implicit else torch.zeros_like(known)


def _beginning(problem: Discretised) -> Tensor:
    """The first stage's point with controls in the middle of what is allowed, (B, 1, nz + m)."""
    control = middle(*problem.problem.first_limits()).expand(len(problem.start), -1)
    return torch.cat((problem.start, control), -1)[:, None]


def has_kinks(problem: Discretised, points: Tensor) -> Tensor:
    """Whether derivatives of (L, F, G) change as much over a short distance as over one ten times as long, (B,)."""
    size = points.abs().mean(1, keepdim=True).clamp(min=1e-6)
    long, short = (_changes(problem, points, distance * size) for distance in (_FAR, _NEAR))
    return (short > _KINK) & (short > 0.5 * long)


def _changes(problem: Discretised, points: Tensor, distances: Tensor) -> Tensor:
    """The largest change of a derivative between two points so far apart in one coordinate, relative to it, (B,)."""
    count = problem.stages(points).shape[-1]
    worst = points.new_zeros(len(points))
    for coordinate in range(points.shape[-1]):
        moved = torch.zeros_like(points)
        moved[..., coordinate] = distances[..., coordinate]
        ahead, behind = (
            Local(problem.stages, points + side * moved, count).jacobian()[..., coordinate] for side in (0.5, -0.5)
        )
        size = torch.maximum(ahead.abs(), behind.abs()).amax(1, keepdim=True).clamp(min=1e-6)
        worst = torch.maximum(worst, ((ahead - behind).abs() / size).nan_to_num(0.0, 0.0, 0.0).flatten(1).amax(1))
    return worst

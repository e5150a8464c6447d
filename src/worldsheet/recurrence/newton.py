"""States of a recurrence all at once, by Newton's method on r_t = f(h_{t−1}, u_t) − h_t; costates by a reverse scan."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite
from typing import final

import torch

from worldsheet.recurrence.bidiagonal import growth_exponent, solve_bidiagonal, solve_transposed
from worldsheet.recurrence.cells import Cell
from worldsheet.recurrence.types import Drive, States, Step

_NUMBERS = 2**24  # in the Jacobians of one window: 64 MiB in float32
_SMALLEST = 16  # steps of a window, below which the loop takes over
_SWEEPS = 2
_STRETCH = 256  # steps that growth is estimated on
_STUCK = 0.1  # of the first residual, after a third of the iterations
_RATIO = 4  # from window to smaller window


@final
@dataclass(frozen=True)
class Linearization:
    """What stands for ∂f/∂h in Newton's method.

    Attributes:
        diagonal: only its diagonal, which costs n times less and converges linearly.
        iterations: most of them in a window.
        window: steps that are relaxed together; as many as memory allows by default.
    """

    diagonal: bool = False
    iterations: int = 20
    window: int | None = None

    def steps(self, cell: Cell, drive: Drive) -> int:
        """Steps of a window whose Jacobians fit."""
        total, batch = drive.shape[:2]
        numbers = batch * cell.size * (1 if self.diagonal else cell.size)
        most = max(_SMALLEST, _NUMBERS // max(1, numbers))
        return min(total, most if self.window is None else min(most, self.window))


@final
@dataclass
class Progress:
    """How a relaxation in time has gone so far.

    Attributes:
        iterations: Newton's, the most of any window.
        residual: the largest |r_t| left, over the largest |h_t|; of the window that failed, if one did.
        exponent: growth per step of small deviations, at the end of the last window or where one failed.
        windows: how many were relaxed.
        reason: why it gave up; empty if it did not.
    """

    iterations: int = 0
    residual: float = 0.0
    exponent: float | None = None
    windows: int = 0
    reason: str = ""


def relax_states(
    cell: Cell, drive: Drive, start: Step, how: Linearization, guess: States | None = None
) -> tuple[States | None, Progress]:
    """h_t for all t by Newton, window after window, or None where that does not converge.

        r_t = f(h_{t−1}, u_t) − h_t,     δ_t − J_t δ_{t−1} = r_t,     h ← h + δ                                     (41)

    Deviations grow as e^{exponent · t}. Where they grow, Newton would need as many iterations as there are steps: it
    gives up. Where they shrink, a window that fails is tried again in smaller ones.

    Args:
        cell: f.
        drive: u, (T, B, k).
        start: the state before the first step, (B, n).
        how: full or diagonal Jacobians, and how many steps together.
        guess: states to begin with, if they are nearer than none.
    """
    progress, pieces, done, window = Progress(), [], 0, how.steps(cell, drive)
    while done < len(drive):
        stop = min(len(drive), done + window)
        near = None if guess is None else guess[done:stop]
        found = _relaxed(cell, drive[done:stop], start, how, near, progress)
        if found is None:
            window = _smaller(cell, drive[done:], start, window, progress)
            if window < _SMALLEST:
                return None, progress
            continue
        pieces.append(found)
        start, done = found[-1], stop
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces), progress


def relax_costates(
    cell: Cell, drive: Drive, start: Step, states: States, credit: States, window: int | None = None
) -> tuple[States, Step]:
    """λ_t = J_{t+1}ᵀ λ_{t+1} + g_t (43), exact once the states are, and J_0ᵀ λ_0 for the start."""
    together = Linearization(window=window).steps(cell, drive)
    pieces, after = [], torch.zeros_like(start)
    for begin, stop in _backwards(len(drive), together):
        before = shifted(states[begin:stop], start if begin == 0 else states[begin - 1])
        _, jacobians = cell.linearized(before, drive[begin:stop])
        given = torch.cat((credit[begin : stop - 1], credit[stop - 1 : stop] + after))
        costates = solve_transposed(jacobians, given)
        after = (jacobians[0].mT @ costates[0][..., None])[..., 0]
        pieces.append(costates)
    return torch.cat(pieces[::-1]), after


def relax_costates_by_diagonals(
    cell: Cell, drive: Drive, start: Step, states: States, credit: States, iterations: int
) -> tuple[States, Step] | None:
    """The same without Jacobians: λ ← λ + the reverse scan, with their diagonals, of what (43) lacks; None if not."""
    before = shifted(states, start)
    _, diagonals = cell.diagonal(before, drive)
    costates, left = solve_transposed(diagonals, credit), inf
    rounding = torch.finfo(credit.dtype).eps
    for _ in range(iterations):
        pulled = cell.pulled(before, drive, costates)
        lacking = credit + torch.cat((pulled[1:], torch.zeros_like(pulled[:1]))) - costates
        last, left = left, float(lacking.abs().max())
        size = float(costates.abs().max())
        if _at_rest(left, last, rounding * size, slow=True):
            return costates, pulled[0]
        if not isfinite(left):
            return None
        costates = costates + solve_transposed(diagonals, lacking)
    return None


def loop_states(cell: Cell, drive: Drive, start: Step) -> States:
    """The states step by step."""
    states = []
    for now in drive:
        start = cell.step(start, now)
        states.append(start)
    return torch.stack(states)


def shifted(states: States, start: Step) -> States:
    """h_{t−1} for each t."""
    return torch.cat((start[None], states[:-1]))


def _relaxed(
    cell: Cell, drive: Drive, start: Step, how: Linearization, guess: States | None, progress: Progress
) -> States | None:
    """One window by Newton, or None where residuals do not vanish within the budget."""
    states = _begin(cell, drive, start, guess)
    rounding, first, left = torch.finfo(start.dtype).eps, inf, inf
    for iteration in range(how.iterations + 1):
        before = shifted(states, start)
        value, jacobian = (cell.diagonal if how.diagonal else cell.linearized)(before, drive)
        residual = value - states
        last, left = left, float(residual.abs().max() / value.abs().max().clamp(min=torch.finfo(start.dtype).tiny))
        if _at_rest(left, last, rounding, slow=how.diagonal):
            progress.windows += 1
            progress.iterations = max(progress.iterations, iteration)
            progress.residual = max(progress.residual, left)
            if cell.diagonal_is_all or not how.diagonal:
                progress.exponent = growth_exponent(jacobian[-_STRETCH:])
            return value
        first = left if iteration == 0 else first
        stuck = iteration >= how.iterations // 3 and left > _STUCK * first
        if not isfinite(left) or stuck or iteration == how.iterations:
            break
        states = states + solve_bidiagonal(jacobian, residual)
    progress.residual = left
    return None


def _at_rest(left: float, last: float, rounding: float, *, slow: bool) -> bool:
    """Whether a residual is rounding, or near it and no longer falling as its method makes it fall."""
    return left <= 4 * rounding or (left <= 64 * rounding and left > (0.95 if slow else 0.5) * last)


def _begin(cell: Cell, drive: Drive, start: Step, guess: States | None) -> States:
    """A few sweeps from the start, or the guess where its residual is smaller."""
    states = start.expand(len(drive), *start.shape)
    for _ in range(_SWEEPS):
        last, states = states, cell.step(shifted(states, start), drive)
    if guess is None:
        return states
    near = cell.step(shifted(guess, start), drive)
    closer = torch.linalg.vector_norm(near - guess) < torch.linalg.vector_norm(states - last)
    return near if bool(closer) else states


def _smaller(cell: Cell, drive: Drive, start: Step, window: int, progress: Progress) -> int:
    """Steps to try next; none where deviations grow, or where small windows failed too."""
    stretch = drive[:_STRETCH]
    states = loop_states(cell, stretch, start)
    _, jacobians = cell.linearized(shifted(states, start), stretch)
    progress.exponent = growth_exponent(jacobians)
    if not isfinite(progress.exponent) or progress.exponent >= 0:
        progress.reason = f"deviations grow by {progress.exponent:.2g} a step: what Newton corrects is lost again"
        return 0
    if window // _RATIO < _SMALLEST:
        progress.reason = f"Newton left a residual of {progress.residual:.1e} in a window of {window} steps"
    return window // _RATIO


def _backwards(steps: int, window: int) -> Iterator[tuple[int, int]]:
    for stop in range(steps, 0, -window):
        yield max(0, stop - window), stop

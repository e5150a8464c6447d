"""The wave with a scalar impedance: first order, matrix-free, all stages of all problems at once."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control.derivatives import curvature, slope
from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.hamiltonian import control_curvature, convexified, improved, stationarity, weights
from worldsheet.control.methods.history import History
from worldsheet.control.methods.initial_guess import Start
from worldsheet.control.methods.iterate import Residuals, compared
from worldsheet.control.methods.result import RawResult, Termination

_REFRESH = 20  # ticks between two looks at H_uu, which is constant in most problems
_OVERFLOW = 1e12


@final
@dataclass(frozen=True)
class Scattered:
    """Settings of the scalar wave.

    Attributes:
        speed: ν, what crosses from one field to the other per tick.
        impedance: z, states per costate.
        tol: stop when all residuals are below this.
        max_ticks: budget.
    """

    speed: float
    impedance: float
    tol: float
    max_ticks: int


@final
@dataclass(frozen=True)
class _Fields:
    states: Tensor
    costates: Tensor
    controls: Tensor


def relax_scattered(problem: Discretised, start: Start, settings: Scattered, history: History | None) -> RawResult:
    """Tick (11) without matching over the horizon, the control eliminated by H_u = 0.

        x ← x − ν z g,     λ ← λ + (ν/z) r,     with r = F(x, u) − x⁺ and g = H_x − λ                              (26)

    States move first and costates read them moved, the symplectic order. Stage 0 is clamped at x_0; at stage N, where
    the terminal cost may be stiff, (1/z + φ_xx)⁻¹ stands for z. Stable while ν² σ² < (2 − ν z q)(2 − ν c/z), with σ the
    largest singular value of the shift and Jacobian operator, below 1 + ‖A‖, q that of H_xx and c that of B H_uu⁻¹Bᵀ.
    Cost per tick: one evaluation and one pull-back of all stages, and one evaluation.
    """
    now = _Fields(start.states, start.costates, start.controls)
    count = len(now.states)
    terminations = torch.full((count,), Termination.RUNNING.value, device=now.states.device)
    terminations = torch.where(problem.start.isfinite().all(-1), terminations, Termination.NO_START.value)
    ticks, bends = torch.zeros_like(terminations), _bends(problem, now, settings)
    everyone = torch.arange(count, device=now.states.device)
    for tick in range(settings.max_ticks + 1):
        if tick and tick % _REFRESH == 0:
            bends = _bends(problem, now, settings)
        seen = _look(problem, now)
        if history is not None:
            history.add(tick, everyone, now.states, now.costates, now.controls, seen.state_gap, seen.costate_gap)
        found = _residuals(problem, now, seen)
        fresh = _endings(found, now, settings, last=tick == settings.max_ticks)
        stopped = (terminations == Termination.RUNNING) & (fresh != Termination.RUNNING)
        terminations, ticks = torch.where(stopped, fresh, terminations), torch.where(stopped, tick, ticks)
        running = terminations == Termination.RUNNING
        if not bool(running.any()):
            break
        now = _kept(running, _ticked(problem, now, seen, bends, settings), now)
    found = compared(_residuals(problem, now, _look(problem, now)), now.states, now.costates)
    return RawResult(now.states, now.costates, now.controls, None, None, None, None, found, terminations, ticks)


@final
@dataclass(frozen=True)
class _Seen:
    """What all stages see: r and g for k = 1..N, and H_u."""

    state_gap: Tensor
    costate_gap: Tensor
    control_slope: Tensor
    first_costate: Tensor


def _look(problem: Discretised, now: _Fields) -> _Seen:
    size = problem.size
    points = torch.cat((now.states[:, :-1], now.controls), -1)
    values, gradient = slope(problem.stages, points, weights(problem, now.costates))
    last = now.states[:, -1]
    _, end = slope(problem.end, last, last.new_ones((len(last), 1)))
    pulled = torch.cat((gradient[:, 1:, :size], end[:, None]), 1)
    return _Seen(
        values[..., 1 : 1 + size] - now.states[:, 1:],
        pulled - now.costates[:, 1:],
        gradient[..., size:],
        gradient[:, 0, :size],
    )


@final
@dataclass(frozen=True)
class _Bends:
    """What is looked at once in a while: H_uu of every stage, and (1/z + φ_xx)⁻¹, how far the end gives way."""

    control: Tensor
    end: Tensor


def _bends(problem: Discretised, now: _Fields, settings: Scattered) -> _Bends:
    control = now.controls
    if control.shape[-1]:
        control = convexified(control_curvature(problem, now.states, now.controls, now.costates)[1])
    last = now.states[:, -1]
    _, end = curvature(problem.end, last, last.new_ones((len(last), 1)))
    eye = torch.eye(last.shape[-1], dtype=last.dtype, device=last.device)
    stiffness = eye / settings.impedance + convexified(end).clamp(max=1e12)
    return _Bends(control, torch.linalg.inv_ex(stiffness).inverse)


def _ticked(problem: Discretised, now: _Fields, seen: _Seen, bends: _Bends, settings: Scattered) -> _Fields:
    """One tick: states, then controls, then costates."""
    z, speed = settings.impedance, settings.speed
    states = now.states.clone()
    states[:, 1:-1] -= speed * z * seen.costate_gap[:, :-1]
    states[:, -1] -= speed * (bends.end @ seen.costate_gap[:, -1, :, None])[..., 0]
    controls = improved(problem, now.controls, seen.control_slope, bends.control)
    with torch.no_grad():
        reached = problem.stages(torch.cat((states[:, :-1], controls), -1))[..., 1 : 1 + problem.size]
    costates = now.costates.clone()
    costates[:, 1:] += speed / z * (reached - states[:, 1:])
    costates[:, 0] = seen.first_costate
    return _Fields(states, costates, controls)


def _residuals(problem: Discretised, now: _Fields, seen: _Seen) -> Residuals:
    """Nothing but dynamics, costates and controls: other constraints are refused before."""
    zero = now.states.new_zeros(len(now.states))
    return Residuals(
        seen.state_gap.abs().amax((1, 2)),
        seen.costate_gap.abs().amax((1, 2)),
        stationarity(problem, now.controls, seen.control_slope),
        zero,
        zero,
    )


def _endings(found: Residuals, now: _Fields, settings: Scattered, *, last: bool) -> Tensor:
    worst, largest = compared(found, now.states, now.costates).worst(), found.worst()
    over = Termination.SPENT if last else Termination.RUNNING
    ending = torch.full(worst.shape, over.value, device=worst.device)
    ending = torch.where(worst <= settings.tol, Termination.CONVERGED.value, ending)
    return torch.where(largest < _OVERFLOW, ending, Termination.OVERFLOWED.value)


def _kept(running: Tensor, moved: _Fields, before: _Fields) -> _Fields:
    """Problems at rest stay as they are."""
    chosen = running[:, None, None]
    return _Fields(
        torch.where(chosen, moved.states, before.states),
        torch.where(chosen, moved.costates, before.costates),
        torch.where(chosen, moved.controls, before.controls),
    )

"""The forward–backward sweep: direct coupling, what everyone writes first; kept for comparison."""

from dataclasses import dataclass
from math import isfinite
from typing import final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_end, expand_stages
from worldsheet.control.methods.hamiltonian import control_curvature, convexified, improved, stationarity, weights
from worldsheet.control.methods.history import History
from worldsheet.control.methods.initial_guess import Start, rollout
from worldsheet.control.methods.iterate import Residuals, compared
from worldsheet.control.methods.result import RawResult, Termination
from worldsheet.core.errors import InputError

_INNER = 3  # Newton steps on H_u = 0 in each sweep
_OVERFLOW = 1e12


@final
@dataclass(frozen=True)
class ForwardBackwardSweep:
    """States forward from the controls, costates backward from the states, controls from both, mixed with the old ones.

        u ← u + ω (argmin_u H(x, u, λ) − u)

    Each sweep is sequential in the horizon. Nothing reflects, so nothing damps: on long horizons or with cheap controls
    the loop gain exceeds 1 and the sweep diverges at any useful ω, where the wave converges.

    Args:
        relaxation: ω, in (0, 1].

    Raises:
        InputError: ω outside (0, 1].
    """

    relaxation: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what does not mix."""
        if not (isfinite(self.relaxation) and 0 < self.relaxation <= 1):
            raise InputError(
                f"ForwardBackwardSweep: relaxation must be above 0 and at most 1, got {self.relaxation}",
                "the share of the new controls in the next ones",
                "use ForwardBackwardSweep(relaxation=0.5)",
            )


@final
@dataclass(frozen=True)
class Sweeping:
    """Settings of a sweep: ω, the largest control residual at rest, the budget in sweeps there and back."""

    relaxation: float
    tol: float
    max_ticks: int


def relax_by_sweeps(problem: Discretised, start: Start, settings: Sweeping, history: History | None) -> RawResult:
    """Sweep until no allowed control is better, the budget is spent, or the fields overflow."""
    controls, each = start.controls, torch.arange(len(start.states), device=start.states.device)
    terminations = torch.where(problem.start.isfinite().all(-1), Termination.RUNNING.value, Termination.NO_START.value)
    ticks, zero = torch.zeros_like(terminations), start.states.new_zeros(len(each))
    for tick in range(settings.max_ticks + 1):
        states = rollout(problem, start.states[:, 0], controls)
        costates = adjoint(problem, states, controls)
        slope, bend = control_curvature(problem, states, controls, costates)
        if history is not None:
            still = torch.zeros_like(states[:, 1:])
            history.add(tick, each, states, costates, controls, still, still)
        found = Residuals(zero, zero, stationarity(problem, controls, slope), zero, zero)
        fresh = _endings(states, costates, found, settings, last=tick == settings.max_ticks)
        stopped = (terminations == Termination.RUNNING) & (fresh != Termination.RUNNING)
        terminations, ticks = torch.where(stopped, fresh, terminations), torch.where(stopped, tick, ticks)
        running = terminations == Termination.RUNNING
        if not bool(running.any()):
            break
        best = improved(problem, controls, slope, convexified(bend))
        for _ in range(_INNER - 1):
            slope, bend = control_curvature(problem, states, best, costates)
            best = improved(problem, best, slope, convexified(bend))
        mixed = controls + settings.relaxation * (best - controls)
        controls = torch.where(running[:, None, None], mixed, controls)
    found = compared(found, states, costates)
    return RawResult(states, costates, controls, None, None, None, None, found, terminations, ticks)


def _endings(states: Tensor, costates: Tensor, found: Residuals, settings: Sweeping, *, last: bool) -> Tensor:
    over = Termination.SPENT if last else Termination.RUNNING
    ending = torch.where(
        compared(found, states, costates).worst() <= settings.tol, Termination.CONVERGED.value, over.value
    )
    sane = torch.maximum(states.abs().amax((1, 2)), costates.abs().amax((1, 2))) < _OVERFLOW
    return torch.where(sane, ending, Termination.OVERFLOWED.value)


def adjoint(problem: Discretised, states: Tensor, controls: Tensor) -> Tensor:
    """λ_N = φ_x, λ_k = L_x + F_xᵀ λ_{k+1}: backward through given states, (B, N + 1, nz)."""
    size, stages = problem.size, controls.shape[1]
    zero = torch.zeros_like(states)
    stage = expand_stages(problem, torch.cat((states[:, :-1], controls), -1), weights(problem, zero))
    end = expand_end(problem, states[:, -1], states.new_ones((len(states), 1)))
    costates = [end.jacobian[..., 0, :]]
    for k in range(stages - 1, -1, -1):
        rows = stage.jacobian[:, k, :, :size]
        costates.append(rows[:, 0] + (costates[-1][:, None] @ rows[:, 1 : 1 + size])[:, 0])
    return torch.stack(costates[::-1], 1)

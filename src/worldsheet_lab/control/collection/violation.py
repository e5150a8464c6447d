"""What a solution breaks, said by the problem's own functions and not by the solver."""

import torch
from torch import Tensor

from worldsheet.control import Problem, Trajectory


def violation(solution: Trajectory) -> float:
    """By how much bounds, path and terminal constraints are exceeded at most along the path that the controls lead to.

    Only the controls and the duration of one solved problem are believed; states are integrated anew.
    """
    problem, controls = solution.problem, solution.controls.detach()
    times = solution.times.detach()
    with torch.no_grad():
        states = _rolled_out(problem, controls, times)
        low, high = problem.limits()
        excess = [low - controls, controls - high]
        if problem.path_constraint is not None:
            excess.append(problem.path_constraint(states[:-1], controls, times[:-1]))
        if problem.terminal_constraint is not None:
            excess.append(problem.terminal_constraint(states[-1]).abs())
        worst = torch.cat([part.flatten() for part in excess]).max()
    return float(worst.nan_to_num(torch.inf).clamp(min=0))


def _rolled_out(problem: Problem, controls: Tensor, times: Tensor) -> Tensor:
    states = [problem.initial_state]
    for control, time, after in zip(controls, times[:-1], times[1:], strict=True):

        def flow(state: Tensor, now: Tensor, held: Tensor = control) -> tuple[Tensor, Tensor]:
            lead = state.shape[:-1]  # an implicit integrator asks for copies
            return problem.dynamics(state, held.expand(*lead, -1), now.expand(lead)), state.new_zeros(lead)

        states.append(problem.integrator.step(flow, states[-1], time, after - time)[0])
    return torch.stack(states)

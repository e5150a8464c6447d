"""Parameters as ports: what the costates say of anything that dynamics and costs read."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worldsheet.control.derivatives import effort
from worldsheet.control.problem import Problem
from worldsheet.control.stage import Discretised


def parameter_gradients(
    problem: Problem, states: Tensor, costates: Tensor, controls: Tensor, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Sum over stages and problems of ∂/∂θ (L_k + λ_{k+1}ᵀ F_k), and of ∂φ/∂θ: (27).

    States, costates and controls are given and not differentiated: credit travels between stages as costates only.
    """
    flat = Discretised.of(problem)
    steps, size = problem.steps, problem.state_size
    count = len(flat.start)
    path = states.detach().reshape(count, steps + 1, size)
    ahead = costates.detach().reshape(count, steps + 1, size)[:, 1:]
    control = controls.detach().reshape(count, steps, problem.control_size)
    with torch.enable_grad():
        stage = flat.stages(torch.cat((path[:, :-1], control), -1))
        value = stage[..., 0].sum() + (ahead * stage[..., 1 : 1 + size]).sum() + flat.end(path[:, -1])[..., 0].sum()
        found = effort(value, list(parameters.values()))
    return {name: part.detach() for name, part in zip(parameters, found, strict=True) if part is not None}


def accumulate(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    """Add gradients to `.grad`."""
    for name, gradient in gradients.items():
        leaf = parameters[name]
        leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad + gradient

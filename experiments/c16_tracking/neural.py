"""Tracking with costates from a network whose parameters follow Riccati's generalised equation turned around."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from worldsheet.streaming import CostateNetwork

NEURONS, SPEED, DT = 2, 50.0, 0.004
WEIGHTS = NEURONS * (NEURONS + 1)


def hamiltonian(mass: float) -> Any:
    """H of (x, w) and (p_x, p_w): the velocity of the weights is the control, eliminated as ẇ = −p_w/m."""

    def energy(point: Tensor, costate: Tensor, time: Tensor) -> Tensor:
        x, w = point[:NEURONS], point[NEURONS:].view(NEURONS, NEURONS + 1)
        p_x, p_w = costate[:NEURONS], costate[NEURONS:]
        rate = SPEED * (torch.tanh(w[:, :-1] @ x + w[:, -1]) - x)
        error = x[0] - 0.6 * torch.sin(time / 2)
        return error**2 / 2 + p_x @ rate - p_w.square().sum() / (2 * mass)

    return energy


def tracked(seconds: float, seed: int, theta: float = 20.0, mass: float = 0.005) -> dict[str, Any]:
    """Errors of every sixth of the run, from a linear costate that starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    size = NEURONS + WEIGHTS
    network = nn.Linear(size, size, dtype=torch.float64)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    costates = CostateNetwork(hamiltonian(mass), network, damping=1e-3, dissipation=theta)
    states = 0.1 * torch.randn(NEURONS, generator=generator)
    weights = torch.randn(WEIGHTS, generator=generator) / math.sqrt(NEURONS + 1)
    point = torch.cat([states, weights]).double()
    squares = []
    steps = round(seconds / DT)
    for step in range(steps):
        point = costates.step(point, step * DT, DT)
        squares.append((float(point[0]) - 0.6 * math.sin((step + 1) * DT / 2)) ** 2)
        if not math.isfinite(squares[-1]) or squares[-1] > 1e6:
            return {"status": "diverged", "seconds": step * DT, "errors": []}
    part = steps // 6
    errors = [math.sqrt(sum(squares[k * part : (k + 1) * part]) / part) for k in range(6)]
    return {"status": "ended", "seconds": seconds, "errors": errors}

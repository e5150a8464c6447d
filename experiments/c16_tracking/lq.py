"""The scalar linear-quadratic example: sign policies, and Riccati's equation turned around, against the optimum."""

import math

import torch

from worldsheet.streaming import LinearQuadratic

HORIZON, DT = 8.0, 0.002
PERIODS = [4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05]


def problem(a: float) -> LinearQuadratic:
    """ẋ = a x + u with the cost ∫ ½ (x² + u²) dt."""
    return LinearQuadratic(*(torch.tensor([[value]], dtype=torch.float64) for value in (a, 1.0, 1.0, 1.0)))


def best_cost(a: float) -> float:
    """½ P x², with P of an infinite horizon: the rest of the horizon is worth nothing to a state that has decayed."""
    return (a + math.sqrt(a * a + 1)) / 2


def flipped(a: float, period: float, plain: float) -> float:
    """Cost over the best one when s = +1 for a part of every period, else −1, from p = 0; semi-implicit Euler."""
    x, p, cost = 1.0, 0.0, 0.0
    for step in range(round(HORIZON / DT)):
        time = step * DT
        sign = 1.0 if time % period < plain * period else -1.0
        p -= DT * sign * (x + a * p)
        x += DT * (a * x - p)
        cost += DT * (x * x + p * p) / 2
        if not math.isfinite(cost) or cost > 1e6:
            return math.inf
    return cost / best_cost(a)


def tracked(a: float, bound: float) -> float:
    """The same when s = +1 inside the track |H| ≤ bound, else −1."""
    x, p, cost = 1.0, 0.0, 0.0
    for _ in range(round(HORIZON / DT)):
        energy = x * x / 2 + a * x * p - p * p / 2
        sign = 1.0 if abs(energy) <= bound else -1.0
        p -= DT * sign * (x + a * p)
        x += DT * (a * x - p)
        cost += DT * (x * x + p * p) / 2
        if not math.isfinite(cost) or cost > 1e6:
            return math.inf
    return cost / best_cost(a)


def riccati(a: float) -> float:
    """The same with p = P x, P by Riccati's equation turned around from P = 0."""
    case = problem(a)
    x, P, cost = 1.0, torch.zeros(1, 1, dtype=torch.float64), 0.0
    for _ in range(round(HORIZON / DT)):
        P = case.reversed_riccati(P, DT)
        p = float(P) * x
        x += DT * (a * x - p)
        cost += DT * (x * x + p * p) / 2
    return cost / best_cost(a)

"""Optimal control by CasADi and fatrop, an interior-point method that knows the stages: the anchor for speed.

Reference:
    Vanroye, Sathya, De Schutter & Decré, FATROP: a fast constrained optimal control problem solver for robot
    trajectory optimization and control, 2023.
"""

import time
from collections.abc import Sequence
from functools import partial
from math import inf, isfinite
from typing import Any, final

import casadi as ca

from benchmarks.ipopt import Answer, Explicit, Model, Start, Vector, held, rates

_OPEN, _FIXED = (-inf, 0.0), (0.0, 0.0)


@final
class Fatrop:
    """The transcription that `Ipopt` solves, its unknowns and constraints in the order of the stages.

    A free duration is one more state that does not change. Bounds on controls are constraints of their stage.

    Attributes:
        build_seconds: CPU time of building.

    Raises:
        TypeError: an implicit method, which is not written down here.
    """

    def __init__(self, model: Model, tol: float = 1e-6, max_iterations: int = 1000) -> None:
        begun = time.process_time()
        integrator = model.integrator
        if not isinstance(integrator, Explicit):
            raise TypeError(f"fatrop has no form of {integrator} here")
        self._model, self._free = model, int(model.duration is not None)
        n, m = model.sizes
        initial = ca.SX.sym("x0", n)
        states = [ca.SX.sym(f"x{k}", n + self._free) for k in range(model.steps + 1)]
        controls = [ca.SX.sym(f"u{k}", m) for k in range(model.steps)]
        rows, cost = _Rows(), model.terminal(states[-1][:n])
        for k, (x, u) in enumerate(zip(states, controls, strict=False)):
            dt = model.dt if model.duration is None else model.duration / model.steps * x[n]
            following, spent = integrator.step(partial(rates, model, u=u), x[:n], dt)
            cost = cost + spent
            rows.add(states[k + 1] - ca.vertcat(following, x[n:]), *_FIXED)
            if k == 0:
                rows.add(x[:n] - initial, *_FIXED)
            for entry, (low, high) in enumerate(zip(held(model.bounds[0], m), held(model.bounds[1], m), strict=True)):
                if isfinite(low) or isfinite(high):
                    rows.add(u[entry], low, high)
            if model.path is not None:
                rows.add(model.path(x[:n], u), *_OPEN)
        if model.target is not None:
            rows.add(model.target(states[-1][:n]), *_FIXED)
        unknowns = [part for pair in zip(states, controls, strict=False) for part in pair]
        options: dict[str, Any] = {
            "structure_detection": "auto",
            "equality": [low == high for low, high in rows.limits],
            "print_time": False,
            "fatrop.print_level": 0,
            "fatrop.tol": tol,
            "fatrop.max_iter": max_iterations,
        }
        problem = {"x": ca.vertcat(*unknowns, states[-1]), "p": initial, "f": cost, "g": ca.vertcat(*rows.values)}
        self._limits = rows.limits
        self._solver = ca.nlpsol("solver", "fatrop", problem, options)
        self.build_seconds = time.process_time() - begun

    def solve(self, initial: Sequence[float], start: Start) -> Answer:
        """From one initial state and a start."""
        model, scale = self._model, [1.0] * self._free
        n, m = model.sizes
        stages = zip(start.states, [*start.controls, []], strict=True)
        guess = [value for state, control in stages for value in (*state, *scale, *control)]
        begun = time.process_time()
        found = self._solver(
            x0=guess,
            p=list(initial),
            lbg=[low for low, _ in self._limits],
            ubg=[high for _, high in self._limits],
        )
        seconds = time.process_time() - begun
        flat = found["x"].full().ravel().tolist()
        width = n + self._free + m
        rows = [flat[width * k : width * (k + 1)] for k in range(model.steps + 1)]
        paths = ([row[:n] for row in rows], [row[n + self._free :] for row in rows[:-1]])
        length = model.steps * model.dt if model.duration is None else model.duration * rows[0][n]
        return Answer.of(float(found["f"]), self._solver.stats(), seconds, paths, length)


@final
class _Rows:
    """Constraints in the order of the stages, with their limits."""

    def __init__(self) -> None:
        self.values: list[Vector] = []
        self.limits: list[tuple[float, float]] = []

    def add(self, value: Vector, low: float, high: float) -> None:
        """One or more with the same limits."""
        self.values.append(value)
        self.limits += [(low, high)] * int(value.shape[0])

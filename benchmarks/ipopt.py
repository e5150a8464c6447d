"""Optimal control by CasADi and IPOPT, and the known problems once more: written apart, to check and not to repeat."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, pi
from typing import Any, TypeAlias, final

import casadi as ca

Vector = Any  # casadi.SX; casadi carries no types
Rates = Callable[[Vector], Vector]  # of the states and, last, of the cost, the control being held
Bound = float | Sequence[float]

_SHORTEST = 1e-2  # of the guess; where time may vanish, IPOPT lets it


@final
@dataclass(frozen=True)
class Explicit:
    """An explicit Runge-Kutta method by its coefficients."""

    inner: tuple[tuple[float, ...], ...]
    outer: tuple[float, ...]

    def step(self, rates: Rates, x: Vector, dt: Vector) -> tuple[Vector, Vector]:
        """The next state and the cost of a stage."""
        n, found = x.shape[0], list[Vector]()
        for row in self.inner:
            moved = sum((weight * rate[:n] for weight, rate in zip(row, found, strict=True) if weight), ca.SX(n, 1))
            found.append(rates(x + dt * moved))
        total = dt * sum((weight * rate for weight, rate in zip(self.outer, found, strict=True)), ca.SX(n + 1, 1))
        return x + total[:n], total[n]

    @property
    def inside(self) -> int:
        """States within a stage that are unknowns: none."""
        return 0

    def gap(self, rates: Rates, x: Vector, within: Vector, after: Vector, dt: Vector) -> tuple[Vector, Vector]:
        """What is missing between a stage and the next, and the cost."""
        following, spent = self.step(rates, x, dt)
        return following - after, spent


@final
@dataclass(frozen=True)
class Midpoint:
    """The implicit midpoint rule, whose equation is one of the problem's constraints."""

    @property
    def inside(self) -> int:
        """States within a stage that are unknowns: none, the midpoint is known by its ends."""
        return 0

    def gap(self, rates: Rates, x: Vector, within: Vector, after: Vector, dt: Vector) -> tuple[Vector, Vector]:
        """What is missing between a stage and the next, and the cost."""
        total = dt * rates((x + after) / 2)
        return x + total[:-1] - after, total[-1]


@final
@dataclass(frozen=True)
class Radau:
    """Radau IIA as collocation, by CasADi's coefficients: a polynomial that obeys the rates at so many points."""

    points: int

    @property
    def inside(self) -> int:
        """States within a stage that are unknowns: all but the last, which is the next state."""
        return self.points - 1

    def gap(self, rates: Rates, x: Vector, within: Vector, after: Vector, dt: Vector) -> tuple[Vector, Vector]:
        """What is missing at every point, and the cost."""
        slopes, _, weights = ca.collocation_coeff(ca.collocation_points(self.points, "radau"))
        places: Vector = ca.horzcat(x, within, after)
        found: Vector = ca.horzcat(*(dt * rates(places[:, 1 + i]) for i in range(self.points)))
        return ca.vec(found[:-1, :] - places @ slopes), found[-1, :] @ weights


EULER = Explicit(((),), (1.0,))
RK4 = Explicit(((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@final
@dataclass(frozen=True)
class Model:
    """A problem in CasADi's words, the arguments of `ws.control.Problem`; `duration` is a guess if it is free."""

    dynamics: Callable[[Vector, Vector], Vector]
    running: Callable[[Vector, Vector], Vector]
    terminal: Callable[[Vector], Vector]
    sizes: tuple[int, int]
    steps: int
    dt: float
    integrator: Explicit | Midpoint | Radau = RK4
    bounds: tuple[Bound, Bound] = (-inf, inf)
    path: Callable[[Vector, Vector], Vector] | None = None
    target: Callable[[Vector], Vector] | None = None
    duration: float | None = None
    control_guess: float = 0.0
    states_guess: Callable[[float], Sequence[float]] | None = None


@final
@dataclass(frozen=True)
class Start:
    """Where IPOPT begins: (N + 1) rows of n states, N rows of m controls; a free duration begins at its guess."""

    states: Sequence[Sequence[float]]
    controls: Sequence[Sequence[float]]

    def flat(self) -> list[float]:
        """In the order of the unknowns."""
        return [value for rows in (self.states, self.controls) for row in rows for value in row]


Paths: TypeAlias = tuple[list[list[float]], list[list[float]]]
"""States and controls, a row each stage."""


@final
@dataclass(frozen=True)
class Answer:
    """What a solver of CasADi's found.

    Attributes:
        cost: objective.
        status: the solver's own word.
        success: whether it says so.
        iterations: its own count.
        seconds: CPU time of the call.
        states: (N + 1) rows of n.
        controls: N rows of m.
        duration: of the whole horizon.
    """

    cost: float
    status: str
    success: bool
    iterations: int
    seconds: float
    states: list[list[float]]
    controls: list[list[float]]
    duration: float

    @staticmethod
    def of(cost: float, stats: dict[str, Any], seconds: float, paths: Paths, duration: float) -> "Answer":
        """With what CasADi says of the call."""
        word, success, count = str(stats["return_status"]), bool(stats["success"]), int(stats["iter_count"])
        return Answer(cost, word, success, count, seconds, *paths, duration)


@final
class Ipopt:
    """A multiple-shooting transcription, built once and solved for any initial state.

    Attributes:
        build_seconds: CPU time of building.
    """

    def __init__(
        self, model: Model, tol: float = 1e-6, max_iterations: int = 1000, options: Mapping[str, Any] | None = None
    ) -> None:
        begun = time.process_time()
        self._model = model
        n, m = model.sizes
        states = ca.SX.sym("x", n, model.steps + 1)
        controls = ca.SX.sym("u", m, model.steps)
        within = ca.SX.sym("y", n, model.integrator.inside * model.steps)
        initial, scale = ca.SX.sym("x0", n), ca.SX.sym("s")
        free = model.duration is not None
        dt = model.duration / model.steps * scale if model.duration is not None else model.dt
        cost, equal, below = model.terminal(states[:, -1]), [states[:, 0] - initial], []
        for k in range(model.steps):
            flow = partial(rates, model, u=controls[:, k])
            inner = ca.horzsplit(within, model.integrator.inside)[k] if model.integrator.inside else ca.SX(n, 0)
            missing, spent = model.integrator.gap(flow, states[:, k], inner, states[:, k + 1], dt)
            cost, equal = cost + spent, [*equal, missing]
            if model.path is not None:
                below.append(model.path(states[:, k], controls[:, k]))
        if model.target is not None:
            equal.append(model.target(states[:, -1]))
        self._equal, self._below = (sum(part.shape[0] for part in parts) for parts in (equal, below))
        unknowns = ca.vertcat(ca.vec(states), ca.vec(controls), *[scale] * free, ca.vec(within))
        problem = {"x": unknowns, "p": initial, "f": cost, "g": ca.vertcat(*equal, *below)}
        quiet: dict[str, Any] = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes", "ipopt.tol": tol}
        quiet["ipopt.max_iter"] = max_iterations
        self._solver = ca.nlpsol("solver", "ipopt", problem, {**quiet, **(options or {})})
        self._free = free
        self.build_seconds = time.process_time() - begun

    def solve(self, initial: Sequence[float], start: Start | None = None) -> Answer:
        """From one initial state and the model's guess, or another start."""
        model = self._model
        n, m = model.sizes
        count, inside = n * (model.steps + 1), model.integrator.inside
        guess = self._guess(initial) if start is None else [*start.flat(), *[1.0] * self._free]
        # from the end of a stage: a stiff one's equations have roots beside the one that continues the state
        guess += [value for k in range(1, model.steps + 1) for value in guess[n * k : n * (k + 1)] * inside]
        low = [-inf] * count + held(model.bounds[0], m) * model.steps + [_SHORTEST] * self._free
        high = [inf] * count + held(model.bounds[1], m) * model.steps + [inf] * self._free
        unlimited = [inf] * (n * inside * model.steps)
        begun = time.process_time()
        found = self._solver(
            x0=guess,
            p=list(initial),
            lbx=[*low, *(-value for value in unlimited)],
            ubx=[*high, *unlimited],
            lbg=[0.0] * self._equal + [-inf] * self._below,
            ubg=[0.0] * (self._equal + self._below),
        )
        seconds = time.process_time() - begun
        flat = found["x"].full().ravel().tolist()
        paths = (
            [flat[n * k : n * (k + 1)] for k in range(model.steps + 1)],
            [flat[count + m * k : count + m * (k + 1)] for k in range(model.steps)],
        )
        length = model.steps * model.dt if model.duration is None else model.duration * flat[count + m * model.steps]
        return Answer.of(float(found["f"]), self._solver.stats(), seconds, paths, length)

    def _guess(self, initial: Sequence[float]) -> list[float]:
        """Where the controls of the model's guess lead, as the other side starts; else its own states."""
        model = self._model
        controls = [model.control_guess] * model.sizes[1]
        if model.states_guess is not None:
            states = [list(model.states_guess(k / model.steps)) for k in range(model.steps + 1)]
        else:
            dt = model.dt if model.duration is None else model.duration / model.steps
            x, u = ca.SX.sym("x", model.sizes[0]), ca.SX.sym("u", model.sizes[1])
            step = ca.Function("step", [x, u], [stage_of(model)(x, u, dt)[0]])
            states = [list(initial)]
            for _ in range(model.steps):
                states.append(step(states[-1], controls).full().ravel().tolist())
        return [*(value for state in states for value in state), *controls * model.steps, *[1.0] * self._free]


def stage_of(model: Model) -> Callable[[Vector, Vector, Vector], tuple[Vector, Vector]]:
    """One stage of an explicit method, the cost integrated as a state: (x, u, dt) -> (next x, cost).

    Raises:
        TypeError: an implicit method, which has no such function.
    """
    integrator = model.integrator
    if not isinstance(integrator, Explicit):
        raise TypeError(f"{integrator} makes no next state of a state: hand over a start")
    return lambda x, u, dt: integrator.step(lambda at: rates(model, at, u), x, dt)


def rates(model: Model, x: Vector, u: Vector) -> Vector:
    """Of the states and, last, of the cost."""
    return ca.vertcat(model.dynamics(x, u), model.running(x, u))


def held(bound: Bound, count: int) -> list[float]:
    """A bound for each control."""
    return [bound] * count if isinstance(bound, int | float) else list(bound)


def _weighted(x: Vector, weights: Sequence[float], target: Sequence[float]) -> Vector:
    return sum(w * (x[i] - goal) ** 2 for i, (w, goal) in enumerate(zip(weights, target, strict=True)))


def _pendulum() -> Model:
    return Model(
        dynamics=lambda x, u: ca.vertcat(x[1], -9.81 * ca.sin(x[0]) - 0.1 * x[1] + u[0]),
        running=lambda x, u: 0.1 * (x[0] - pi) ** 2 + 0.01 * x[1] ** 2 + 0.05 * u[0] ** 2,
        terminal=lambda x: 10 * ((x[0] - pi) ** 2 + x[1] ** 2),
        sizes=(2, 1),
        steps=60,
        dt=0.05,
        integrator=EULER,
    )


def _cartpole() -> Model:
    g, length, pole, cart = 9.81, 0.5, 0.3, 1.0

    def dynamics(x: Vector, u: Vector) -> Vector:
        s, c = ca.sin(x[1]), ca.cos(x[1])
        mass = cart + pole * s**2
        moved = (u[0] + pole * s * (length * x[3] ** 2 + g * c)) / mass
        turned = (-u[0] * c - pole * length * x[3] ** 2 * c * s - (cart + pole) * g * s) / (length * mass)
        return ca.vertcat(x[2], x[3], moved, turned)

    upright = (0.0, pi, 0.0, 0.0)
    return Model(
        dynamics=dynamics,
        running=lambda x, u: _weighted(x, (0.1, 0.5, 0.01, 0.01), upright) + 0.01 * u[0] ** 2,
        terminal=lambda x: _weighted(x, (20.0, 40.0, 5.0, 5.0), upright),
        sizes=(4, 1),
        steps=100,
        dt=0.03,
        bounds=(-15.0, 15.0),
    )


def _bangbang() -> Model:
    return Model(
        dynamics=lambda x, u: ca.vertcat(x[1], u[0]),
        running=lambda x, u: ca.SX(1),
        terminal=lambda x: ca.SX(0),
        sizes=(2, 1),
        steps=60,
        dt=0.0,
        bounds=(-1.0, 1.0),
        target=lambda x: x,
        duration=2.0,
    )


def _vanderpol() -> Model:
    return Model(
        dynamics=lambda x, u: ca.vertcat((1 - x[1] ** 2) * x[0] - x[1] + u[0], x[0]),
        running=lambda x, u: x[0] ** 2 + x[1] ** 2 + u[0] ** 2,
        terminal=lambda x: ca.SX(0),
        sizes=(2, 1),
        steps=100,
        dt=0.1,
        bounds=(-0.75, 1.0),
    )


def _rocket() -> Model:
    def dynamics(x: Vector, u: Vector) -> Vector:
        drag = 310 * x[1] ** 2 * ca.exp(-500 * (x[0] - 1))
        return ca.vertcat(x[1], (u[0] - drag) / x[2] - 1 / x[0] ** 2, -2 * u[0])

    return Model(
        dynamics=dynamics,
        running=lambda x, u: 1e-6 * u[0] ** 2,
        terminal=lambda x: -x[0],
        sizes=(3, 1),
        steps=80,
        dt=0.0,
        bounds=(0.0, 3.5),
        target=lambda x: x[2] - 0.6,
        duration=0.2,
        control_guess=1.0,
    )


def _quadrotor() -> Model:
    g, arm, inertia, drag = 9.81, 0.2, (0.01, 0.01, 0.02), 0.02
    weights = [2.0] * 3 + [0.5] * 3 + [0.2] * 3 + [0.1] * 3
    hover = g / 4

    def dynamics(x: Vector, u: Vector) -> Vector:
        roll, pitch, yaw, p, q, r = x[3], x[4], x[5], x[9], x[10], x[11]
        sr, cr, sy, cy = ca.sin(roll), ca.cos(roll), ca.sin(yaw), ca.cos(yaw)
        sp, cp, lift = ca.sin(pitch), ca.cos(pitch), ca.sum1(u)
        return ca.vertcat(
            x[6:9],
            p + (q * sr + r * cr) * sp / cp,
            q * cr - r * sr,
            (q * sr + r * cr) / cp,
            lift * (cr * sp * cy + sr * sy),
            lift * (cr * sp * sy - sr * cy),
            lift * cr * cp - g,
            (arm * (u[1] - u[3]) + (inertia[1] - inertia[2]) * q * r) / inertia[0],
            (arm * (u[2] - u[0]) + (inertia[2] - inertia[0]) * p * r) / inertia[1],
            (drag * (u[0] - u[1] + u[2] - u[3]) + (inertia[0] - inertia[1]) * p * q) / inertia[2],
        )

    return Model(
        dynamics=dynamics,
        running=lambda x, u: _weighted(x, weights, [0.0] * 12) + 0.1 * ca.sumsqr(u - hover),
        terminal=lambda x: 20 * _weighted(x, weights, [0.0] * 12),
        sizes=(12, 4),
        steps=50,
        dt=0.05,
        bounds=(0.0, 6.0),
        control_guess=hover,
    )


def _obstacle() -> Model:
    def line(part: float) -> list[float]:
        bulge = 0.3 * float(ca.sin(pi * part))
        return [2 * part + bulge, 2 * part - bulge, 0.0, 0.0]

    return Model(
        dynamics=lambda x, u: ca.vertcat(x[2:4], u),
        running=lambda x, u: 0.05 * ca.sumsqr(u),
        terminal=lambda x: _weighted(x, (50.0, 50.0, 5.0, 5.0), (2.0, 2.0, 0.0, 0.0)),
        sizes=(4, 2),
        steps=60,
        dt=0.05,
        bounds=(-4.0, 4.0),
        path=lambda x, u: 0.25 - (x[0] - 1) ** 2 - (x[1] - 1) ** 2,
        states_guess=line,
    )


MODELS: dict[str, Callable[[], Model]] = {
    "pendulum": _pendulum,
    "cartpole": _cartpole,
    "bangbang": _bangbang,
    "vanderpol": _vanderpol,
    "rocket": _rocket,
    "quadrotor": _quadrotor,
    "obstacle": _obstacle,
}

"""What is estimated: least squares written out, the Kalman filter and smoother, scipy's fit of a curve."""

import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor

import worldsheet as ws
from nets import assert_tells
from plants import DOUBLE, close

C = ws.control
NOISE = 0.3
EXECUTIONS = [
    pytest.param(C.Eager, id="eager"),
    pytest.param(
        C.Compiled,
        id="compiled",
        marks=pytest.mark.skipif(all(shutil.which(name) is None for name in ("cc", "gcc")), reason="no C compiler"),
    ),
]


class Plant:
    """x⁺ = A x + B w + D v with known v and measurements H x, all random; rows of data are (y, v)."""

    def __init__(self, seed: int, steps: int, batch: tuple[int, ...] = ()) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.steps, self.batch = steps, batch

        def of(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=DOUBLE)

        self.A, self.B, self.D, self.H = 0.6 * of(3, 3), of(3, 2), of(3, 1), of(2, 3)
        root = of(3, 3)
        self.before, self.spread = of(*batch, 3), root @ root.T + 0.1 * torch.eye(3, dtype=DOUBLE)
        self.seen, self.told = of(*batch, steps + 1, 2), of(*batch, steps + 1, 1)

    @property
    def rows(self) -> Tensor:
        return torch.cat((self.seen, self.told), -1)

    def misfit(self, x: Tensor, row: Tensor) -> Tensor:
        return (x @ self.H.T - row[..., :2]).square().sum(-1) / (2 * NOISE)

    def arrival(self, x: Tensor, mean: Tensor) -> Tensor:
        return 0.5 * ((x - mean) @ torch.linalg.inv(self.spread) * (x - mean)).sum(-1)

    def problem(self, **changes: Any) -> C.Problem:
        """With the mean of what is known before as parameters."""
        given: dict[str, Any] = {
            "dynamics": lambda x, w, t, p, row: x @ self.A.T + w @ self.B.T + row[..., 2:] @ self.D.T,
            "running_cost": lambda x, w, t, p, row: 0.5 * w.square().sum(-1),
            "stage_cost": lambda x, w, t, p, row: self.misfit(x, row),
            "terminal_cost": lambda x, p, row: self.misfit(x, row),
            "initial_cost": lambda x, p, row: self.arrival(x, p),
            "initial_state": torch.zeros(*self.batch, 3, dtype=DOUBLE),
            "parameters": self.before,
            "stage_data": self.rows,
        }
        sizes: dict[str, Any] = {"control_size": 2, "steps": self.steps, "integrator": C.Discrete()}
        return C.Problem(**{**given, **sizes, "free_initial_state": True, **changes})

    def window(self, steps: int, **changes: Any) -> C.Problem:
        """Without an initial cost or parameters, for an estimator that moves on."""
        return C.Problem(
            dynamics=lambda x, w, t, row: x @ self.A.T + w @ self.B.T + row[..., 2:] @ self.D.T,
            running_cost=lambda x, w, t, row: 0.5 * w.square().sum(-1),
            stage_cost=lambda x, w, t, row: self.misfit(x, row),
            terminal_cost=self.misfit,
            initial_state=self.before,
            free_initial_state=True,
            stage_data=torch.zeros(steps + 1, 3, dtype=DOUBLE),
            control_size=2,
            steps=steps,
            integrator=C.Discrete(),
            **changes,
        )

    def kalman(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Means and covariances before and after each measurement, as textbooks write the filter."""
        mean, spread = self.before, self.spread
        found: tuple[list[Tensor], ...] = ([], [], [], [])
        for k in range(self.steps + 1):
            gain = spread @ self.H.T @ torch.linalg.inv(self.H @ spread @ self.H.T + NOISE * torch.eye(2, dtype=DOUBLE))
            after = mean + (self.seen[..., k, :] - mean @ self.H.T) @ gain.T
            less = spread - gain @ self.H @ spread
            for part, value in zip(found, (mean, spread, after, less), strict=True):
                part.append(value)
            mean = after @ self.A.T + self.told[..., k, :] @ self.D.T
            spread = self.A @ less @ self.A.T + self.B @ self.B.T
        return found  # type: ignore[return-value]

    def smoother(self) -> Tensor:
        """Rauch, Tung and Striebel's: states given all measurements, (..., N + 1, 3)."""
        means, spreads, after, less = self.kalman()
        states = [after[-1]]
        for k in range(self.steps - 1, -1, -1):
            gain = less[k] @ self.A.T @ torch.linalg.inv(spreads[k + 1])
            states.append(after[k] + (states[-1] - means[k + 1]) @ gain.T)
        return torch.stack(states[::-1], -2)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_a_free_initial_state_is_the_kalman_smoothers(
    execution: Callable[[], C.Execution], batch: tuple[int, ...]
) -> None:
    plant = Plant(0, 12, batch)
    sol = C.solve(plant.problem(execution=execution()))
    assert sol.converged.all()
    assert sol.ticks.max() == 1
    close(sol.states, plant.smoother(), 1e-10)
    close(sol.costates[..., 0, :], torch.zeros(*batch, 3, dtype=DOUBLE), 1e-10)
    path, noise = plant.smoother(), sol.controls
    direct = plant.arrival(path[..., 0, :], plant.before) + plant.misfit(path, plant.rows).sum(-1)
    close(sol.cost, direct + 0.5 * noise.square().sum((-2, -1)), 1e-9)


def test_the_smoother_is_differentiated_by_what_is_measured_and_what_was_known() -> None:
    """Against autograd through the filter and the smoother that textbooks write."""
    plant = Plant(1, 8)
    weights = torch.randn(9, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    plant.seen, plant.told, plant.before = (part.requires_grad_() for part in (plant.seen, plant.told, plant.before))
    given = [plant.seen, plant.told, plant.before]
    sol = C.solve(plant.problem())
    mine = torch.autograd.grad((weights * sol.states).sum(), given, retain_graph=True)
    theirs = torch.autograd.grad((weights * plant.smoother()).sum(), given, retain_graph=True)
    for one, other in zip(mine, theirs, strict=True):
        close(one, other, 1e-9)
    named = sol.gradients(dict(zip(("seen", "told", "before"), given, strict=True)))
    for one, other in zip(torch.autograd.grad(sol.cost, given, retain_graph=True), named.values(), strict=True):
        close(one, other, 1e-9)
    innovations = torch.autograd.grad(sol.cost, plant.before)[0]
    close(innovations, torch.linalg.solve(plant.spread, plant.before - sol.states[0]).detach(), 1e-9)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_a_moving_horizon_is_the_kalman_filter(execution: Callable[[], C.Execution], steps: int) -> None:
    """Whatever the horizon: what is left behind goes into the arrival cost as into the filter's covariance."""
    plant = Plant(2, 16, (3,))
    means, spreads, after, _ = plant.kalman()
    estimator = C.MHE(plant.window(steps, execution=execution()), plant.spread)
    unknown = torch.full_like(plant.told[..., 0, :], 7.0)  # what the plant will be told is not known yet
    for k in range(17):
        row = torch.cat((plant.seen[..., k, :], unknown), -1)
        found = estimator.step(row, None if k == 0 else plant.rows[..., k - 1, :])
        assert not found.fallback.any()
        close(found.state, after[k], 1e-10)
        left = max(0, k - steps)
        assert estimator.time == left
        close(estimator.arrival.mean, means[left], 1e-10)
        close(estimator.arrival.covariance, spreads[left].expand(3, 3, 3), 1e-10)


def swinging(x: Tensor, u: Tensor, t: Tensor, row: Tensor, p: Tensor) -> Tensor:
    return torch.stack((x[..., 1], -p[..., 1] * x[..., 0].sin() - p[..., 0] * x[..., 1]), -1)


def measured() -> Tensor:
    """The angle of a pendulum with friction .3 and stiffness 2, with noise."""
    x, found = torch.tensor([1.0, 0.0], dtype=DOUBLE), []
    known, nothing = torch.tensor([0.3, 2.0], dtype=DOUBLE), torch.zeros(0, dtype=DOUBLE)
    for _ in range(41):
        found.append(x[:1])
        x = stepped(x, known)
    noise = torch.randn(41, 1, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return torch.stack(found) + 0.05 * noise + 0 * nothing.sum()


def stepped(x: Tensor, p: Tensor) -> Tensor:
    """Runge and Kutta's method over .1."""

    def rate(at: Tensor) -> Tensor:
        return swinging(at, at, at, at, p)

    a = rate(x)
    b = rate(x + 0.05 * a)
    c = rate(x + 0.05 * b)
    return x + 0.1 / 6 * (a + 2 * b + 2 * c + rate(x + 0.1 * c))


def fit(seen: Tensor, **changes: Any) -> C.Problem:
    """Initial state, friction and stiffness from 41 angles, without a loop."""
    given: dict[str, Any] = {
        "dynamics": swinging,
        "running_cost": lambda x, u, t, row, p: 0 * t,
        "stage_cost": lambda x, u, t, row, p: 0.5 * (x[..., 0] - row[..., 0]) ** 2,
        "terminal_cost": lambda x, row, p: 0.5 * (x[..., 0] - row[..., 0]) ** 2,
        "initial_state": torch.tensor([0.5, 0.0], dtype=DOUBLE),
        "unknowns": C.Unknowns(torch.tensor([1.0, 1.0], dtype=DOUBLE)),
    }
    sizes = {"control_size": 0, "steps": 40, "dt": 0.1, "free_initial_state": True}
    return C.Problem(**{**given, **sizes, "stage_data": seen, **changes})


def fitted(seen: Tensor, bounds: Any = (-math.inf, math.inf)) -> tuple[Tensor, float]:
    """By scipy: (x_0, p) and the cost."""

    def residuals(values: Any) -> Any:
        whole = torch.as_tensor(values, dtype=DOUBLE)
        x, p, missed = whole[:2], whole[2:], []
        for angle in seen[:, 0]:
            missed.append(x[0] - angle)
            x = stepped(x, p)
        return torch.stack(missed).numpy()

    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    found = least_squares(residuals, [0.5, 0.0, 1.0, 1.2], bounds=bounds, **tight)
    return torch.as_tensor(found.x), float(found.cost)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_parameters_are_fitted_as_scipy_fits_them(execution: Callable[[], C.Execution]) -> None:
    seen = measured()
    wanted, cost = fitted(seen)
    sol = C.solve(fit(seen, execution=execution()))
    assert sol.outcome.converged
    assert sol.unknowns is not None
    close(torch.cat((sol.states[0], sol.unknowns)), wanted, 1e-6)
    assert float(sol.cost) == pytest.approx(cost, abs=1e-12)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_bounds_of_unknowns_are_kept_and_priced(execution: Callable[[], C.Execution]) -> None:
    seen = measured()
    low, high = [-9.0, -9.0, 0.5, -9.0], [9.0, 9.0, 9.0, 1.5]
    wanted, cost = fitted(seen, (low, high))
    guess = torch.tensor([1.0, 1.0], dtype=DOUBLE)
    sol = C.solve(fit(seen, unknowns=C.Unknowns(guess, ((0.5, -math.inf), (9.0, 1.5))), execution=execution()))
    assert sol.outcome.converged
    assert sol.unknowns is not None
    assert sol.multipliers is not None
    close(torch.cat((sol.states[0], sol.unknowns)), wanted, 1e-5)
    assert float(sol.cost) == pytest.approx(cost, abs=1e-6)
    force = sol.multipliers.inequality
    assert force.shape == (40, 3)  # friction and stiffness from above, friction from below
    step = 1e-4
    moved = (
        C.solve(fit(seen, unknowns=C.Unknowns(guess, ((0.5 + step, -math.inf), (9.0, 1.5))))).cost
        - C.solve(fit(seen, unknowns=C.Unknowns(guess, ((0.5 - step, -math.inf), (9.0, 1.5))))).cost
    ) / (2 * step)
    assert float(force[0, 2]) == pytest.approx(float(moved), rel=1e-3)
    again = C.solve(fit(seen, unknowns=C.Unknowns(guess, ((0.5, -math.inf), (9.0, 1.5)))), initial_guess=sol)
    assert int(again.ticks) <= 1


def test_a_batch_of_fits_is_each_fit_by_itself() -> None:
    seen = measured()
    others = torch.stack([seen, seen + 0.02 * torch.sin(7 * seen), seen.flip(0)])
    starts = torch.tensor([[0.5, 0.0]] * 3, dtype=DOUBLE)
    together = C.solve(fit(others, initial_state=starts))
    assert together.unknowns is not None
    assert together.converged.all()
    for number, each in enumerate(others):
        alone = C.solve(fit(each))
        assert alone.unknowns is not None
        close(together.unknowns[number], alone.unknowns, 1e-8)
        close(together.cost[number], alone.cost, 1e-10)


@pytest.mark.parametrize("bounded", [False, True])
def test_what_is_fitted_is_differentiated(bounded: bool) -> None:
    """By the measurements and a weight: against finite differences."""
    seen = measured()
    most = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)
    nothing = torch.tensor(math.inf, dtype=DOUBLE)

    def found(data: Tensor, weight: Tensor, top: Tensor = most) -> tuple[Tensor, C.Trajectory]:
        bounds = (-math.inf, torch.stack((nothing, top))) if bounded else None
        problem = fit(
            data,
            initial_cost=lambda x, row, p: 0.5 * weight * (p - 1).square().sum(-1),
            unknowns=C.Unknowns(torch.tensor([1.0, 1.0], dtype=DOUBLE), bounds),
        )
        sol = C.solve(problem, tol=1e-11)
        assert sol.unknowns is not None
        return sol.unknowns[0] + 0.3 * sol.states[0, 1] + sol.states[-1, 0], sol

    leaf, weight = seen.clone().requires_grad_(), torch.tensor(0.2, dtype=DOUBLE, requires_grad=True)
    value, sol = found(leaf, weight)
    by_data, by_weight = torch.autograd.grad(value, [leaf, weight], retain_graph=True)
    step = 1e-4
    for row in (0, 17, 40):
        nudge = torch.zeros_like(seen)
        nudge[row] = step
        numeric = (found(seen + nudge, weight)[0] - found(seen - nudge, weight)[0]) / (2 * step)
        assert float(by_data[row, 0]) == pytest.approx(float(numeric.detach()), rel=1e-4, abs=1e-6)
    numeric = (found(seen, weight + step)[0] - found(seen, weight - step)[0]) / (2 * step)
    assert float(by_weight) == pytest.approx(float(numeric.detach()), rel=1e-4)
    if bounded:
        by_bound = torch.autograd.grad(value, most, retain_graph=True)[0]
        numeric = (found(seen, weight, most + step)[0] - found(seen, weight, most - step)[0]) / (2 * step)
        assert float(by_bound) == pytest.approx(float(numeric.detach()), rel=1e-4)
    named = sol.gradients({"data": leaf, "weight": weight})
    close(named["data"], torch.autograd.grad(sol.cost, leaf, retain_graph=True)[0], 1e-8)
    assert sol.unknowns is not None
    close(named["weight"], 0.5 * (sol.unknowns.detach() - 1).square().sum(), 1e-8)


def test_an_estimator_learns_a_parameter_as_it_goes() -> None:
    """A pendulum whose stiffness is not known, seen by its angle alone; the window starts from it as a first idea."""
    problem = C.Problem(
        dynamics=lambda x, w, t, row, p: swinging(x, w, t, row, torch.cat((0 * p + 0.3, p), -1)) + w,
        running_cost=lambda x, w, t, row, p: 0.5 * 1e4 * w.square().sum(-1),
        stage_cost=lambda x, w, t, row, p: 0.5 * ((x[..., 0] - row[..., 0]) / 0.05) ** 2,
        terminal_cost=lambda x, row, p: 0.5 * ((x[..., 0] - row[..., 0]) / 0.05) ** 2,
        initial_state=torch.tensor([0.5, 0.0], dtype=DOUBLE),
        free_initial_state=True,
        unknowns=C.Unknowns(torch.tensor([1.0], dtype=DOUBLE), (0.2, 5.0)),
        stage_data=torch.zeros(13, 1, dtype=DOUBLE),
        control_size=2,
        steps=12,
        dt=0.1,
    )
    estimator = C.MHE(problem, torch.diag(torch.tensor([1.0, 1.0, 1.0], dtype=DOUBLE)))
    known, x = torch.tensor([0.3, 2.0], dtype=DOUBLE), torch.tensor([1.0, 0.0], dtype=DOUBLE)
    for row in measured():
        found = estimator.step(row)
        assert not found.fallback.any()
        last, x = x, stepped(x, known)
    assert found.unknowns is not None
    assert float(found.unknowns) == pytest.approx(2.0, abs=0.15)
    close(found.state, last, 0.05)
    spread = estimator.arrival.covariance
    assert float(spread[2, 2]) < 0.03


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("cost_unit", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_cost_does_not_matter(execution: Callable[[], C.Execution], cost_unit: float) -> None:
    seen = measured()
    wanted, _cost = fitted(seen)
    sol = C.solve(
        fit(
            seen,
            stage_cost=lambda x, u, t, row, p: cost_unit * 0.5 * (x[..., 0] - row[..., 0]) ** 2,
            terminal_cost=lambda x, row, p: cost_unit * 0.5 * (x[..., 0] - row[..., 0]) ** 2,
            execution=execution(),
        )
    )
    assert sol.outcome.converged
    assert sol.unknowns is not None
    close(torch.cat((sol.states[0], sol.unknowns)), wanted, 1e-3)


def test_what_cannot_be_known_is_not_called_solved() -> None:
    """Two unknowns of which only the sum plays a part: nothing curves between them."""
    sol = C.solve(
        C.Problem(
            dynamics=lambda x, u, t, row, p: -p.sum(-1, keepdim=True) * x,
            running_cost=lambda x, u, t, row, p: 0 * t,
            stage_cost=lambda x, u, t, row, p: -((x[..., 0] - row[..., 0]) ** 2),
            initial_state=torch.tensor([1.0], dtype=DOUBLE),
            unknowns=C.Unknowns(torch.tensor([0.5, 0.5], dtype=DOUBLE)),
            stage_data=torch.zeros(6, 1, dtype=DOUBLE),
            control_size=0,
            steps=5,
            dt=0.1,
        ),
        max_ticks=60,
    )
    assert not sol.outcome.converged


def test_an_estimator_whose_searches_fail_follows_the_model_and_says_so() -> None:
    window = fit(torch.zeros(41, 1, dtype=DOUBLE), initial_state=torch.tensor([1.0, 0.0], dtype=DOUBLE))
    estimator = C.MHE(window, torch.eye(4, dtype=DOUBLE), max_ticks=0)
    x, guess = torch.tensor([1.0, 0.0], dtype=DOUBLE), torch.tensor([1.0, 1.0], dtype=DOUBLE)
    for row in measured()[:5]:
        found = estimator.step(row + 0.3)
        assert found.fallback.all()
        close(found.state, x, 1e-12)
        assert found.unknowns is not None
        close(found.unknowns, guess, 0.0)
        x = stepped(x, guess)


def test_what_makes_no_estimator_is_refused() -> None:
    plant = Plant(3, 4)
    window, spread = plant.window(4), plant.spread
    for make, words in (
        (lambda: C.MHE(plant.problem(), spread), "initial cost of its own"),
        (lambda: C.MHE(C.Problem(**{**vars(window), "free_initial_state": False}), spread), "initial state is given"),
        (lambda: C.MHE(window, torch.eye(2, dtype=DOUBLE)), "covariance must be that of the 3 states"),
        (lambda: C.MHE(window, -spread), "positive definite"),
        (lambda: C.MHE(window, spread).step(torch.zeros(2, dtype=DOUBLE)), "a row has shape (2,)"),
        (lambda: C.MPC(window), "cannot choose what is measured"),
        (lambda: plant.problem(free_initial_state=False), "initial_cost is the same"),
        (lambda: plant.problem(stage_data=plant.rows[:-1]), "one row for each of the 5 instants"),
        (lambda: plant.problem(stage_data=plant.rows.float()), "torch.float32"),
        (lambda: C.Unknowns(torch.tensor([1.0]), (2.0, 1.0)), "lower bound of unknown 0"),
        (lambda: C.Unknowns(torch.tensor([1])), "real numbers"),
        (lambda: C.Unknowns(torch.tensor([math.nan])), "NaN"),
        (lambda: fit(measured(), unknowns=C.Unknowns(torch.ones(2, 2, dtype=DOUBLE))), "one row for each problem"),
        (lambda: C.solve(window, C.ForwardBackwardSweep()), "free_initial_state"),
    ):
        with pytest.raises(ws.WorldsheetError) as caught:
            make()
        assert_tells(caught.value, words)

"""Against autograd through the whole horizon, torch.func on one stage, and CasADi with IPOPT."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from plants import DOUBLE, bounded, close, double_integrator, linear, pendulum
from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_stages
from worldsheet_lab.control.problems import KNOWN

C = ws.control
INTEGRATORS = [C.ExplicitEuler(), C.RK4(), C.ImplicitMidpoint(), C.RadauIIA(1), C.RadauIIA()]
NAMES = ["euler", "rk4", "midpoint", "radau-1", "radau-5"]
STARTS = torch.tensor([[0.8, 0.0], [-1.0, 0.5], [2.0, -1.0]], dtype=DOUBLE)


def rolled_out(problem: C.Problem, controls: Tensor) -> Tensor:
    """The cost of controls, autograd through every stage."""
    flat = Discretised.of(problem)
    state, cost = flat.start, flat.start.new_zeros(())
    for k in range(problem.steps):
        one = C.Problem(**{**vars(problem), "steps": 1, "initial_time": problem.initial_time + k * problem.dt})
        values = Discretised.of(one).stages(torch.cat((state, controls[:, k]), -1)[:, None])[:, 0]
        cost, state = cost + values[:, 0], values[:, 1 : 1 + problem.state_size]
    return cost + flat.end(state)[:, 0]


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=NAMES)
def test_a_solution_is_a_minimum_for_autograd_through_the_horizon(integrator: C.Integrator) -> None:
    problem = pendulum(STARTS, integrator=integrator)
    sol = C.solve(problem, tol=1e-10)
    assert sol.converged.all()
    controls = sol.controls.clone().requires_grad_()
    cost = rolled_out(problem, controls)
    close(cost.detach(), sol.cost, 1e-9)
    (slope,) = torch.autograd.grad(cost.sum(), controls)
    assert float(slope.abs().max()) < 1e-7
    worse = rolled_out(problem, sol.controls + 1e-2 * torch.randn(sol.controls.shape, dtype=DOUBLE))
    assert (worse > sol.cost).all()


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=NAMES)
def test_costates_are_what_a_change_of_the_state_is_worth(integrator: C.Integrator) -> None:
    problem = pendulum(STARTS, integrator=integrator)
    sol = C.solve(problem, tol=1e-10)
    bumped = C.solve(problem.at(STARTS + torch.tensor([1e-5, 0.0], dtype=DOUBLE)), initial_guess=sol, tol=1e-10)
    dropped = C.solve(problem.at(STARTS - torch.tensor([1e-5, 0.0], dtype=DOUBLE)), initial_guess=sol, tol=1e-10)
    close((bumped.cost - dropped.cost) / 2e-5, sol.costates[:, 0, 0], 1e-5)


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=NAMES)
@pytest.mark.parametrize("many", [False, True], ids=["copies", "turns"])
def test_an_expansion_is_that_of_torch_func(integrator: C.Integrator, many: bool) -> None:
    count = 500 if many else 1
    flat = Discretised.of(pendulum(torch.zeros(count, 2, dtype=DOUBLE), 4, integrator, (-1.0, 1.0)))
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, 4, 3, dtype=DOUBLE, generator=generator)
    weights = torch.randn(count, 4, 5, dtype=DOUBLE, generator=generator)
    found = expand_stages(flat, points, weights)
    one = Discretised.of(pendulum(torch.zeros(1, 2, dtype=DOUBLE), 4, integrator, (-1.0, 1.0)))

    def values(point: Tensor) -> Tensor:
        return one.stages(torch.cat((points[:1, :2], point[None, None], points[:1, 3:]), 1))[0, 2]

    def weighted(point: Tensor) -> Tensor:
        return (weights[0, 2] * values(point)).sum()

    close(found.values[0, 2], values(points[0, 2]).detach(), 1e-14)
    close(found.jacobian[0, 2], torch.autograd.functional.jacobian(values, points[0, 2]), 1e-12)
    close(found.gradient[0, 2], torch.autograd.functional.jacobian(weighted, points[0, 2]), 1e-12)
    close(found.hessian[0, 2], torch.autograd.functional.hessian(weighted, points[0, 2]), 1e-9)


def test_the_implicit_midpoint_solves_its_equation_and_is_exact_for_linear_flow() -> None:
    matrix = torch.tensor([[0.0, 1.0], [-40.0, -3.0]], dtype=DOUBLE)
    state = torch.tensor([[1.0, -2.0]], dtype=DOUBLE)
    dt = torch.tensor([0.1], dtype=DOUBLE)

    def flow(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x @ matrix.T, x.square().sum(-1)

    after, _ = C.ImplicitMidpoint(1).step(flow, state, torch.zeros(1, dtype=DOUBLE), dt)
    eye = torch.eye(2, dtype=DOUBLE)
    exact = torch.linalg.solve(eye - 0.05 * matrix, (eye + 0.05 * matrix) @ state.T).T
    close(after.detach(), exact, 1e-13)


@pytest.mark.parametrize("bounds", [None, (-2.0, 1.5)], ids=["free", "bounded"])
def test_a_batch_is_its_problems_one_by_one(bounds: tuple[float, float] | None) -> None:
    starts = torch.linspace(-2.5, 2.5, 20, dtype=DOUBLE)[:, None] * torch.tensor([1.0, 0.3], dtype=DOUBLE)
    whole = C.solve(pendulum(starts, bounds=bounds))  # twenty: the recursion
    assert whole.converged.all()
    for k in (0, 7, 13):
        alone = C.solve(pendulum(starts[k], bounds=bounds))  # one: the products
        close(alone.states, whole.states[k], 1e-6)
        assert float(alone.cost) == pytest.approx(float(whole.cost[k]), rel=1e-8)
        assert alone.outcome.ticks == whole.outcomes[k].ticks


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(pendulum(STARTS[:2] * 0.5, 8, C.ExplicitEuler()), id="pendulum"),
        pytest.param(bounded(double_integrator(15, batch=STARTS)), id="bounded-mass"),
    ],
)
def test_three_methods_find_the_same_minimum(problem: C.Problem) -> None:
    matched = C.solve(problem, tol=1e-9)
    for method in (ws.Wave(impedance=0.5, speed=0.6), C.ForwardBackwardSweep(0.02)):
        sol = C.solve(problem, method, tol=1e-4, max_ticks=1000)
        assert sol.converged.all()
        close(sol.states, matched.states, 5e-3)
        close(sol.costates, matched.costates, 5e-3)
        close(sol.cost, matched.cost, 5e-3)


def test_a_warm_start_from_the_solution_needs_no_tick() -> None:
    problem = pendulum(STARTS)
    sol = C.solve(problem)
    again = C.solve(problem, initial_guess=sol)
    assert again.ticks.tolist() == [0, 0, 0]


class Field(nn.Module):
    """ẋ = W₂ tanh(W₁ x)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def forward(self, x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=NAMES)
def test_the_gradient_of_a_neural_flow_is_autograds_through_the_solver(integrator: C.Integrator) -> None:
    field = Field()
    problem = C.Problem(
        dynamics=field,
        running_cost=lambda x, u, t: 0.1 * x.square().sum(-1),
        terminal_cost=lambda x: (x - 1).square().sum(-1),
        initial_state=STARTS,
        control_size=0,
        steps=15,
        dt=0.1,
        integrator=integrator,
    )
    leaves = dict(field.named_parameters())
    sol = C.solve(problem)
    sol.accumulate(leaves)
    cost = rolled_out(problem, torch.zeros(3, 15, 0, dtype=DOUBLE)).sum()
    exact = torch.autograd.grad(cost, list(leaves.values()))
    for (name, leaf), wanted in zip(leaves.items(), exact, strict=True):
        assert leaf.grad is not None, name
        close(leaf.grad, wanted, 1e-9)


def test_the_gradient_of_an_optimal_cost_is_its_slope_in_the_parameters() -> None:
    gravity = torch.tensor(9.81, dtype=DOUBLE, requires_grad=True)

    def solved() -> C.Trajectory:
        problem = pendulum(STARTS)
        swung = C.Problem(
            **{
                **vars(problem),
                "dynamics": lambda x, u, t: torch.stack((x[..., 1], -gravity * x[..., 0].sin() + u[..., 0]), -1),
            }
        )
        return C.solve(swung, tol=1e-11)

    slope = solved().gradients({"gravity": gravity})["gravity"]
    costs = []
    for change in (1e-5, -1e-5):
        with torch.no_grad():
            gravity += change
        costs.append(float(solved().cost.detach().sum()))
        with torch.no_grad():
            gravity -= change
    assert float(slope) == pytest.approx((costs[0] - costs[1]) / 2e-5, rel=1e-6)


def test_parameters_per_problem_are_problems_of_their_own() -> None:
    masses = torch.tensor([[1.0], [2.0], [0.5]], dtype=DOUBLE)

    def build(mass: Tensor, starts: Tensor) -> C.Problem:
        return C.Problem(
            dynamics=lambda x, u, t, p: torch.stack((x[..., 1], u[..., 0] / p[..., 0]), -1),
            running_cost=lambda x, u, t, p: x.square().sum(-1) + u.square().sum(-1),
            terminal_cost=lambda x, p: p[..., 0] * x[..., 1].square(),
            initial_state=starts,
            control_size=1,
            steps=10,
            dt=0.1,
            parameters=mass,
        )

    whole = C.solve(build(masses, STARTS))
    for k in range(3):
        alone = C.solve(build(masses[k], STARTS[k]))
        close(whole.states[k], alone.states, 1e-10)


@pytest.mark.parametrize("name", ["pendulum", "bangbang", "obstacle"])  # the others take CasADi seconds to build
def test_known_problems_cost_what_ipopt_finds(name: str) -> None:
    pytest.importorskip("casadi")
    other: Any = importlib.import_module("benchmarks.ipopt")
    answer = other.Ipopt(other.MODELS[name](), tol=1e-9).solve(KNOWN[name].initial)
    problem = KNOWN[name].problem()
    sol = C.solve(problem, initial_guess=KNOWN[name].guess(problem))
    assert answer.success
    assert sol.outcome.converged
    assert float(sol.cost) == pytest.approx(answer.cost, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", ["pendulum", "bangbang", "obstacle"])
def test_fatrop_is_given_the_problem_that_ipopt_is(name: str) -> None:
    pytest.importorskip("casadi")
    ipopt, fatrop = (importlib.import_module(f"benchmarks.{module}") for module in ("ipopt", "fatrop"))
    known, model = KNOWN[name], ipopt.MODELS[name]()
    sol = C.solve(known.problem(), initial_guess=known.guess(known.problem()), tol=1e-9)
    start = ipopt.Start((sol.states + 1e-2).tolist(), sol.controls.tolist())
    mine, theirs = (solver(model, 1e-9).solve(known.initial, start) for solver in (fatrop.Fatrop, ipopt.Ipopt))
    assert mine.success
    assert mine.cost == pytest.approx(theirs.cost, rel=1e-6)
    close(torch.tensor(mine.states), torch.tensor(theirs.states), 1e-4)
    close(torch.tensor(mine.controls), torch.tensor(theirs.controls), 1e-3)
    assert mine.duration == pytest.approx(theirs.duration, rel=1e-6)


def test_the_published_swing_up() -> None:
    sol = C.solve(KNOWN["pendulum"].problem())
    assert float(sol.cost) == pytest.approx(3.5639, abs=5e-5)
    assert sol.outcome.ticks <= 15


def test_goddards_rocket_reaches_its_published_height() -> None:
    problem = KNOWN["rocket"].problem()
    sol = C.solve(problem, initial_guess=KNOWN["rocket"].guess(problem))
    assert float(sol.states[-1, 0]) == pytest.approx(1.01283, abs=1e-5)


def test_float32_reaches_its_own_precision() -> None:
    system = linear(3, 1, 20, 0.9).problem
    single = C.Problem(
        dynamics=lambda x, u, t: 0.9 * x + 0.1 * u,
        running_cost=lambda x, u, t: x.square().sum(-1) + u.square().sum(-1),
        initial_state=system.initial_state.float(),
        control_size=1,
        steps=20,
        integrator=C.Discrete(),
    )
    sol = C.solve(single, tol=1e-5)
    assert sol.states.dtype == torch.float32
    assert sol.outcome.converged


@pytest.mark.parametrize("tol", [1e-8, 1e-6])
def test_a_start_on_a_limit_is_solved_before_it_is_called_so(tol: float) -> None:
    """The multiplier of the limit there has no bound, and must not make every residual small beside it."""

    def solved(wall: float) -> C.Trajectory:
        problem = C.Problem(
            dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
            running_cost=lambda x, u, t: x[..., 0] ** 2 + 0.1 * x[..., 1] ** 2 + 0.1 * u[..., 0] ** 2,
            initial_state=torch.tensor([1.0, 0.0], dtype=DOUBLE),
            control_size=1,
            steps=40,
            dt=0.1,
            bounds=(-1.0, 1.0),
            path_constraint=lambda x, u, t: x[..., :1] - wall,
        )
        return C.solve(problem, tol=tol)

    at, far = solved(1.0), solved(1.5)
    assert at.outcome.converged
    assert float(at.residuals.worst()) < 100 * tol
    assert float(far.cost) == pytest.approx(0.961120, abs=1e-6)  # IPOPT's
    assert float(at.cost) == pytest.approx(float(far.cost), abs=10 * tol)
    close(at.states, far.states, 1e3 * tol)

"""A controller on a plant that noise pushes about: along a wall, over it, and through failures."""

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from nets import assert_tells
from plants import DOUBLE, bounded, close, double_integrator, linear

C = ws.control


def before_a_wall(start: tuple[float, float], limit: object = None, steps: int = 25) -> C.Problem:
    """A mass that wants to be half a unit behind a wall at 0."""
    return C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
        running_cost=lambda x, u, t: (x[..., 0] - 0.5) ** 2 + 0.1 * x[..., 1] ** 2 + 0.01 * u[..., 0] ** 2,
        initial_state=torch.tensor(start, dtype=DOUBLE),
        control_size=1,
        steps=steps,
        dt=0.1,
        bounds=(-2.0, 2.0),
        path_constraint=limit or position,  # type: ignore[arg-type]
    )


def position(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
    return x[..., :1]


def noisy(controller: C.MPC, size: float) -> "object":
    generator = torch.Generator().manual_seed(0)

    def plant(state: Tensor, control: Tensor, time: float) -> Tensor:
        return controller.model(state, control, time) + size * torch.randn(
            state.shape, dtype=DOUBLE, generator=generator
        )

    return plant


def test_along_a_wall_every_noisy_step_is_solved_within_the_bounds() -> None:
    problem = before_a_wall((-0.2, 0.0))
    controller = C.MPC(problem)
    loop = controller.run(problem.initial_state, 60, noisy(controller, 1e-3))  # type: ignore[arg-type]
    assert int(loop.converged.sum()) == 60
    assert not loop.fallback.any()
    assert float(loop.controls.abs().max()) <= 2.0
    assert float(loop.states[:, 0].max()) > 1e-4  # the noise does push it over
    assert float(loop.states[:, 0].max()) < 5e-3
    assert int(loop.ticks[1:].max()) <= 3
    assert float(loop.ticks[1:].double().mean()) < 2
    assert loop.report == "60 of 60 searches converged, 0 plans before were followed"


@pytest.mark.parametrize("start", [(-2.0, 0.0), (-0.2, 0.0)])
def test_a_shifted_step_takes_a_few_ticks_and_finds_what_a_cold_one_finds(start: tuple[float, float]) -> None:
    problem = before_a_wall(start)
    controller, state = C.MPC(problem), problem.initial_state
    for step in range(12):
        move = controller.step(state)
        cold = C.solve(move.plan.problem, tol=1e-6)
        assert move.plan.outcome.converged
        if step:
            assert int(move.plan.ticks) <= 3
            assert 2 * int(move.plan.ticks) <= int(cold.ticks)
        assert float(move.plan.cost) == pytest.approx(float(cold.cost), rel=1e-5)
        state = controller.model(state, move.control)


def test_a_limit_is_asked_from_where_it_says() -> None:
    """From 1e-3 behind the wall, at rest, one stage leads back to it: x + dt² u/2 = 0."""
    start = (1e-3, 0.0)
    later = C.solve(before_a_wall(start, C.PathLimit(position, first=1)))
    assert later.outcome.converged
    assert float(later.controls[0, 0]) == pytest.approx(-2e-3 / 0.1**2, abs=1e-5)
    assert not C.solve(before_a_wall(start), max_ticks=60).outcome.converged
    third = C.solve(before_a_wall(start, C.PathLimit(position, first=3)))
    assert float(third.states[1:3, 0].max()) > 1e-4
    assert float(third.states[3:-1, 0].max()) < 1e-7


def test_a_controller_asks_limits_on_states_from_the_next_instant_and_those_on_controls_at_once() -> None:
    def mixed(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return torch.stack((x[..., 0], u[..., 0] + x[..., 1] - 1.0), -1)

    controller = C.MPC(before_a_wall((1e-3, 0.0), mixed))
    move = controller.step(torch.tensor([1e-3, -3.0], dtype=DOUBLE))
    assert move.plan.outcome.converged
    limit = move.plan.problem.path_constraint
    assert isinstance(limit, C.PathLimits)
    assert limit.limits[0].first == (1, 0)
    strict = C.MPC(before_a_wall((1e-3, 0.0), mixed), max_ticks=40, limits_at_start=True)
    assert bool(strict.step(torch.tensor([1e-3, -3.0], dtype=DOUBLE)).fallback)


def test_a_limit_that_feels_controls_only_beyond_a_threshold_is_asked_at_once() -> None:
    """A few other controls do not tell: all that are tried are on the flat side."""

    def thrust(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return torch.stack((x[..., 0], (u[..., 0] - 1.5).relu() + x[..., 1] - 1.0), -1)

    limit = C.MPC(before_a_wall((0.0, 0.0), thrust)).step(torch.zeros(2, dtype=DOUBLE)).plan.problem.path_constraint
    assert isinstance(limit, C.PathLimits)
    assert limit.limits[0].first == (1, 0)


@pytest.mark.parametrize(
    ("price", "excess"),
    [(C.Price(linear=1e3), 1e-3), (C.Price(linear=1e2, quadratic=1e2), 1e-3)],
    ids=["linear", "both"],
)
def test_an_exact_price_gives_the_hard_solution_where_there_is_one(price: C.Price, excess: float) -> None:
    start = (1e-3, 0.0)
    soft = C.solve(before_a_wall(start, C.PathLimit(position, price=price)), tol=1e-10)
    hard = C.solve(before_a_wall(start, C.PathLimit(position, first=1)), tol=1e-10)
    assert soft.outcome.converged
    assert soft.excess is not None
    assert soft.controls.shape == (25, 1)
    close(soft.controls, hard.controls, 1e-5)
    close(soft.states, hard.states, 1e-6)
    assert float(soft.excess[0, 0]) == pytest.approx(excess, rel=1e-4)  # where nothing can be done
    assert float(soft.excess[1:].max()) < 1e-6
    priced = 0.1 * (price.linear * excess + 0.5 * price.quadratic * excess**2)
    assert float(soft.cost) == pytest.approx(float(hard.cost) + priced, rel=1e-5)
    again = C.solve(soft.problem, initial_guess=soft)
    assert int(again.ticks) <= 1


def test_a_quadratic_price_is_the_penalty_written_into_the_cost() -> None:
    """Where the limit is exceeded throughout, e = c(x), so that the price is a smooth cost."""
    price = 3.0
    start = (0.2, 0.1)
    soft = C.solve(before_a_wall(start, C.PathLimit(position, price=C.Price(quadratic=price)), 10))
    assert soft.excess is not None
    assert float(soft.states[:, 0].min()) > 0.05
    close(soft.excess[:, 0], soft.states[:-1, 0], 1e-5)
    assert soft.multipliers is not None
    close(soft.multipliers.inequality[:, 0], 0.1 * price * soft.states[:-1, 0], 1e-5)


def test_a_price_below_the_worth_of_a_limit_is_paid() -> None:
    soft = C.solve(before_a_wall((-0.2, 0.0), C.PathLimit(position, price=C.Price(linear=0.3))))
    assert soft.multipliers is not None
    assert soft.excess is not None
    assert float(soft.excess.max()) > 0.05
    exceeded = soft.excess[:, 0] > 1e-3
    worth = soft.multipliers.inequality[exceeded, 0]
    close(worth, torch.full_like(worth, 0.03), 1e-5)  # dt times the price


@pytest.mark.parametrize("duration", [None, C.FreeDuration(1.2)], ids=["fixed", "free"])
def test_a_terminal_inequality_is_an_equation_where_it_is_met_and_nothing_elsewhere(duration: object) -> None:
    def problem(**ends: object) -> C.Problem:
        plain = vars(before_a_wall((-1.0, 0.0), C.PathLimit(position, first=1), 12))
        cost = plain["running_cost"]
        return C.Problem(
            **{**plain, "running_cost": lambda x, u, t: 0.3 + cost(x, u, t), "duration": duration, **ends}  # type: ignore[arg-type]
        )

    free = C.solve(problem(), tol=1e-9)
    last = float(free.states[-1, 1])
    slower = last - 0.2
    below = C.solve(problem(terminal_inequality=lambda x: x[..., 1:] - slower), tol=1e-9)
    equal = C.solve(problem(terminal_constraint=lambda x: x[..., 1:] - slower), tol=1e-9)
    loose = C.solve(problem(terminal_inequality=lambda x: x[..., 1:] - last - 1.0), tol=1e-9)
    assert below.outcome.converged
    assert float(below.cost) == pytest.approx(float(equal.cost), rel=1e-6)
    close(below.states, equal.states, 1e-4)
    close(loose.states, free.states, 1e-4)
    assert below.multipliers is not None
    assert equal.multipliers is not None
    close(below.multipliers.inequality[-1, 1], equal.multipliers.terminal[0], 1e-3)
    assert float(below.multipliers.inequality[:-1, 1].max()) < 1e-6
    again = C.solve(below.problem, initial_guess=below, tol=1e-9)
    assert int(again.ticks) <= 1 or duration is not None


def test_gradients_of_a_soft_problem_are_slopes() -> None:
    wall = torch.tensor(0.0, dtype=DOUBLE, requires_grad=True)

    def cost() -> C.Trajectory:
        limit = C.PathLimit(lambda x, u, t: x[..., :1] - wall, price=C.Price(linear=0.3, quadratic=1.0))
        return C.solve(before_a_wall((-0.2, 0.0), limit), tol=1e-10)

    sol = cost()
    (attached,) = torch.autograd.grad(sol.cost, wall, retain_graph=True)
    (moved,) = torch.autograd.grad(sol.states[10, 0], wall)
    sides = []
    for change in (1e-4, -1e-4):
        with torch.no_grad():
            wall += change
            sides.append(cost())
            wall -= change
    assert float(attached) == pytest.approx(float(sides[0].cost - sides[1].cost) / 2e-4, rel=1e-5)
    assert float(sol.gradients({"wall": wall})["wall"]) == pytest.approx(float(attached), rel=1e-6)
    assert float(moved) == pytest.approx(float(sides[0].states[10, 0] - sides[1].states[10, 0]) / 2e-4, rel=1e-3)


def test_a_failed_step_follows_the_plan_before_and_says_so() -> None:
    """A wall that cannot be reached in time from where a blow leaves the mass: three steps fail in a row."""
    problem = before_a_wall((-1.0, 0.0))
    controller = C.MPC(problem, max_ticks=40)
    blown = {3: torch.tensor([0.5, 1.0], dtype=DOUBLE)}

    def plant(state: Tensor, control: Tensor, time: float) -> Tensor:
        step = round(time / 0.1)
        return blown[step] if step in blown else controller.model(state, control, time)

    loop = controller.run(problem.initial_state, 6, plant)
    assert loop.fallback.tolist() == [False, False, False, False, True, True]
    assert loop.converged.tolist() == [True, True, True, True, False, False]
    followed = C.MPC(problem)
    state = problem.initial_state
    for _ in range(4):
        move = followed.step(state)
        state = followed.model(state, move.control)
    close(loop.controls[4:], move.plan.controls[1:3], 1e-6)  # of the last plan that was solved
    assert float(loop.controls.abs().max()) <= 2.0
    assert len(loop.outcomes) == 6
    assert not loop.outcomes[4][0].converged
    assert "4 of 6 searches converged, 2 plans before were followed" in loop.report
    assert "plant 0, step 4: budget spent" in loop.report


def test_a_plant_that_fails_does_not_touch_the_others() -> None:
    starts = torch.tensor([[-1.0, 0.0], [-0.5, 0.2]], dtype=DOUBLE)
    problem = before_a_wall((-1.0, 0.0)).at(starts)
    controller, alone = C.MPC(problem, max_ticks=40), C.MPC(problem.at(starts[1]))
    controller.step(starts)
    alone.step(starts[1])
    later = torch.tensor([[0.5, 1.0], [-0.48, 0.1]], dtype=DOUBLE)
    move = controller.step(later)
    assert move.fallback.tolist() == [True, False]
    close(move.control[1], alone.step(later[1]).control, 1e-6)


def test_a_first_step_that_fails_stays_within_the_bounds() -> None:
    controller = C.MPC(bounded(double_integrator(20)), max_ticks=0)
    move = controller.step(torch.tensor([50.0, 9.0], dtype=DOUBLE))
    assert bool(move.fallback)
    assert float(move.control.abs().max()) <= 0.4
    starts = torch.tensor([[0.4, 1.0], [-0.5, 0.2]], dtype=DOUBLE)  # the first cannot stop in time
    many = C.MPC(before_a_wall((-1.0, 0.0)).at(starts), max_ticks=40)
    assert many.step(starts).fallback.tolist() == [True, False]
    later = torch.tensor([[-0.5, 0.1], [-0.48, 0.1]], dtype=DOUBLE)  # one that has failed is solved when it can be
    assert many.step(later).fallback.tolist() == [False, False]


def test_one_tick_a_step_is_the_regulator_and_comes_to_the_solved_loop() -> None:
    system = linear(3, 1, 30, 1.1, seed=2)
    real, solved = C.MPC(system.problem, real_time=C.RealTimeIteration()), C.MPC(system.problem)
    close(real.run(system.start, 6).controls, solved.run(system.start, 6).controls, 1e-9)
    problem = before_a_wall((-0.6, 0.0))
    loops = []
    for budget in (C.RealTimeIteration(), None):
        controller = C.MPC(problem, real_time=budget)
        loops.append(controller.run(problem.initial_state, 25, noisy(controller, 1e-3)))  # type: ignore[arg-type]
    assert int(loops[0].ticks[1:].max()) == 1
    assert not loops[0].fallback.any()
    close(loops[0].states, loops[1].states, 1e-2)
    assert float(loops[0].controls.abs().max()) <= 2.0


def test_parameters_change_from_step_to_step() -> None:
    """x⁺ = x + u with cost (x − p)² and no price of u: each step goes to where p is."""
    problem = C.Problem(
        dynamics=lambda x, u, t, p: x + u,
        running_cost=lambda x, u, t, p: 1e-6 * u[..., 0] ** 2 + (x[..., 0] - p[..., 0]) ** 2,
        terminal_cost=lambda x, p: (x[..., 0] - p[..., 0]) ** 2,
        initial_state=torch.zeros(1, dtype=DOUBLE),
        control_size=1,
        steps=4,
        integrator=C.Discrete(),
        parameters=torch.zeros(1, dtype=DOUBLE),
    )
    targets = torch.tensor([1.0, 1.0, -2.0, 0.5], dtype=DOUBLE)
    loop = C.MPC(problem).run(problem.initial_state, 4, parameters=lambda time: targets[round(time)][None])
    close(loop.states[1:, 0], targets, 1e-4)
    with pytest.raises(ws.errors.InputError, match="parameters do not fit this problem"):
        C.MPC(problem).step(problem.initial_state, 0.0, torch.zeros(2, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (C.Price, ["Price: linear and quadratic", "one of them above 0", "Price(linear=1e3)"]),
        (lambda: C.Price(linear=-1.0), ["must not be negative", "got -1.0"]),
        (lambda: C.PathLimit(position, first=-1), ["first must not be negative, got -1", "first=1"]),
        (
            lambda: before_a_wall((0.0, 0.0), C.PathLimit(position, first=(1, 1))),
            ["first has 2 entries for 1 rows", "one for each row"],
        ),
        (lambda: C.RealTimeIteration(0), ["ticks must be at least 1, got 0"]),
    ],
)
def test_what_cannot_be_meant_is_refused(make: object, fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        make()  # type: ignore[operator]
    assert_tells(refusal.value, *fragments)

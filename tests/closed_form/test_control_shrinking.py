"""A loop that has to arrive: without noise its plans are one plan, with it every step is solved and it arrives."""

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from nets import assert_tells
from plants import DOUBLE, close

C = ws.control


def braking(steps: int = 30) -> C.Problem:
    """The least time in which a mass comes to rest one further: bang-bang, 2 in continuous time."""
    return C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
        running_cost=lambda x, u, t: 1 + 1e-3 * u[..., 0] ** 2,
        terminal_constraint=lambda x: x - x.new_tensor((1.0, 0.0)),
        initial_state=torch.zeros(2, dtype=DOUBLE),
        control_size=1,
        steps=steps,
        duration=C.FreeDuration(1.5),
        bounds=(-1.0, 1.0),
    )


def test_without_noise_the_plant_follows_the_first_plan_in_hardly_a_tick_a_step() -> None:
    problem = braking()
    plan = C.solve(problem)
    controller = C.ShrinkingHorizon(problem)
    loop = controller.run(problem.initial_state)
    assert loop.converged.all()
    assert not loop.fallback.any()
    close(loop.states, plan.states, 1e-4)
    close(loop.times, plan.times, 1e-4)
    close(loop.times[-1], torch.tensor(2.0, dtype=DOUBLE), 1e-2)
    assert int(loop.ticks[1:].sum()) <= 2 * 29
    with pytest.raises(ws.WorldsheetError) as caught:
        controller.step(problem.initial_state, 0.0)
    assert_tells(caught.value, "no step left")


def test_a_car_that_is_pushed_drives_its_lap_in_less_than_half_the_ticks() -> None:
    """Every third step is solved from nothing, too, and leads to the same control."""

    def slowly(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return x[..., 1:] - 0.8

    problem = C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0] - 0.5 * x[..., 1] ** 2), -1),
        running_cost=lambda x, u, t: 1 + 1e-2 * u[..., 0] ** 2,
        terminal_constraint=lambda x: x[..., :1] - 1,
        initial_state=torch.zeros(2, dtype=DOUBLE),
        control_size=1,
        steps=40,
        duration=C.FreeDuration(2.0),
        bounds=(-1.0, 1.0),
        path_constraint=C.PathLimit(slowly, first=1),
    )
    controller, noise = C.ShrinkingHorizon(problem), torch.Generator().manual_seed(0)
    cold: list[int] = []
    warm: list[int] = []

    def plant(x: Tensor, u: Tensor, t: float, length: float) -> Tensor:
        return controller.model(x, u, t, length) + 1e-3 * torch.randn(2, dtype=DOUBLE, generator=noise)

    state, time = problem.initial_state, 0.0
    for number in range(40):
        leg = controller.step(state, time)
        assert not leg.fallback
        assert -1 <= float(leg.control) <= 1
        if number % 3 == 1 and number < 30:
            alone = C.solve(leg.plan.problem, tol=1e-6)
            close(leg.control, alone.controls[0], 1e-3)
            cold.append(int(alone.ticks))
            warm.append(int(leg.plan.ticks))
        state, time = plant(state, leg.control, time, float(leg.length)), time + float(leg.length)
    assert sum(warm) <= 0.5 * sum(cold)
    assert float(state[0]) == pytest.approx(1, abs=5e-3)


def test_a_failed_step_follows_the_plan_before_and_says_so() -> None:
    problem = braking(10)
    controller = C.ShrinkingHorizon(problem, max_ticks=40)
    first = controller.step(problem.initial_state, 0.0)
    lost = controller.step(torch.full((2,), torch.nan, dtype=DOUBLE), float(first.length))
    assert lost.fallback
    close(lost.control, first.plan.controls[1], 1e-8)
    close(lost.length, first.length, 1e-8)
    assert controller.left == 8


def test_what_has_no_end_to_arrive_at_is_refused() -> None:
    fixed = C.Problem(**{**vars(braking()), "duration": None, "dt": 0.1})
    many = C.Problem(**{**vars(braking()), "initial_state": torch.zeros(3, 2, dtype=DOUBLE)})
    for problem, words in ((fixed, "duration is fixed"), (many, "several plants")):
        with pytest.raises(ws.WorldsheetError) as caught:
            C.ShrinkingHorizon(problem)
        assert_tells(caught.value, words)

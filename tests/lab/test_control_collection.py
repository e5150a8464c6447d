"""Problems of the field from the default guess: what they cost beside IPOPT and beside what was published."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from plants import DOUBLE
from worldsheet_lab.control.collection import COLLECTION, Case, violation
from worldsheet_lab.control.problems import KNOWN

C = ws.control

SLOW = {"chain-57", "shuttle", "shuttle-feet", "planar-quadrotor", "acrobot"}


def cases() -> list[Any]:
    slow = {name: [pytest.mark.slow] for name in SLOW}
    return [pytest.param(case, id=name, marks=slow.get(name, [])) for name, case in COLLECTION.items()]


@pytest.mark.parametrize("case", cases())
def test_a_problem_costs_what_ipopt_pays_and_breaks_nothing(case: Case) -> None:
    sol = C.solve(case.problem())
    assert sol.outcome.converged, sol.outcome
    cost, broken = followed(case, sol.controls.detach(), float(sol.duration))
    assert broken <= 1e-8
    assert violation(sol) == pytest.approx(broken, abs=1e-9)
    assert float(sol.cost) == pytest.approx(cost, rel=1e-7, abs=1e-7)
    assert cost <= case.reference.cost + 1e-6 * abs(case.reference.cost)


def followed(case: Case, controls: Tensor, duration: float) -> tuple[float, float]:
    """Cost and violation of controls by the case's own functions and the Runge-Kutta method of a textbook."""
    dt, state, cost = duration / case.steps, torch.tensor(case.initial, dtype=DOUBLE), 0.0
    low, high = (torch.tensor(side, dtype=DOUBLE) for side in case.bounds or ([], []))
    excess = [controls - high, low - controls] if case.bounds else []
    for control in controls:

        def rates(at: Tensor, held: Tensor = control) -> Tensor:
            spent = 0.0 if case.running is None else case.running(at.unbind(), held.unbind())
            return vector([*case.dynamics(at.unbind(), held.unbind()), spent])

        if case.path is not None:
            excess.append(vector(case.path(state.unbind(), control.unbind())))
        moved = radau(rates, state, dt) if isinstance(case.integrator, C.RadauIIA) else rk4(rates, state, dt)
        state, cost = state + moved[:-1], cost + float(moved[-1])
    if case.terminal is not None:
        cost += float(case.terminal(state.unbind()))
    if case.end is not None:
        excess.append(vector(case.end(state.unbind())).abs())
    return cost, max(0.0, *(float(part.max()) for part in excess))


def vector(parts: Any) -> Tensor:
    return torch.stack([torch.as_tensor(part, dtype=DOUBLE) for part in parts])


def rk4(rates: Any, state: Tensor, dt: float) -> Tensor:
    first = rates(state)
    second = rates(state + dt / 2 * first[:-1])
    third = rates(state + dt / 2 * second[:-1])
    fourth = rates(state + dt * third[:-1])
    moved: Tensor = dt / 6 * (first + 2 * second + 2 * third + fourth)
    return moved


def radau(rates: Any, state: Tensor, dt: float) -> Tensor:
    """The polynomial of third degree from the state that obeys the rates at the roots of Radau's."""
    nodes = torch.tensor([(4 - 6**0.5) / 10, (4 + 6**0.5) / 10, 1.0], dtype=DOUBLE)
    powers = torch.arange(3, dtype=DOUBLE)
    weights = nodes[:, None] ** (powers + 1) / (powers + 1) @ torch.linalg.inv(nodes[:, None] ** powers)

    def defect(flat: Tensor) -> Tensor:
        inside = flat.reshape(3, -1)
        return (state + dt * weights @ torch.stack([rates(at)[:-1] for at in inside]) - inside).flatten()

    places = state.repeat(3)
    for _ in range(30):
        places = places - torch.linalg.solve(torch.func.jacrev(defect)(places), defect(places))
    moved: Tensor = dt * weights[-1] @ torch.stack([rates(at) for at in places.reshape(3, -1)])
    return moved


@pytest.mark.parametrize("name", [name for name, case in COLLECTION.items() if case.reference.published is not None])
def test_a_reference_is_what_was_published(name: str) -> None:
    reference = COLLECTION[name].reference
    assert reference.cost == pytest.approx(reference.published, rel=reference.within)
    assert reference.publisher


def test_rayleighs_problem_without_its_limits_is_what_propt_published() -> None:
    free = replace(COLLECTION["rayleigh"], bounds=None, duration=2.5)
    assert float(C.solve(free.problem()).cost) == pytest.approx(29.37608, rel=3e-4)


def acrobot(x: Tensor) -> Tensor:
    """Energy by where the two centres of mass are, 1 kg each, and how fast their links turn."""
    first = torch.stack((0.5 * x[0].sin(), -0.5 * x[0].cos()))
    second = 2 * first + torch.stack(((x[0] + x[1]).sin(), -(x[0] + x[1]).cos()))
    turning = 0.083 * x[2] ** 2 / 2 + 0.33 * (x[2] + x[3]) ** 2 / 2
    return turning + 9.81 * (first[1] + second[1]) + moving(first, x) + moving(second, x)


def cart_pole(x: Tensor) -> Tensor:
    tip = torch.stack((x[0] + 0.5 * x[1].sin(), -0.5 * x[1].cos()))
    return x[2] ** 2 / 2 + 0.3 * (moving(tip, x) + 9.81 * tip[1])


def moving(place: Tensor, x: Tensor) -> Tensor:
    """Kinetic energy of 1 kg at a place that depends on the first two of four states."""
    rows = [torch.autograd.grad(part, x, create_graph=True)[0][:2] @ x[2:] for part in place]
    total: Tensor = torch.stack(rows).square().sum() / 2
    return total


@pytest.mark.parametrize(
    ("name", "energy", "friction", "driven"), [("acrobot", acrobot, 0.1, 3), ("cart-pole", cart_pole, 0.0, 2)]
)
def test_a_mechanism_gains_what_its_motor_gives(name: str, energy: Any, friction: float, driven: int) -> None:
    for state, control in zip(torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 1, dtype=DOUBLE), strict=True):
        x = state.requires_grad_()
        (slope,) = torch.autograd.grad(energy(x), x)
        gained = slope @ vector(COLLECTION[name].dynamics(x.unbind(), control.unbind())).detach()
        given = control[0] * x[driven] - friction * x[2:].square().sum()
        assert float(gained) == pytest.approx(float(given.detach()), abs=1e-12)


@pytest.mark.slow
def test_goddards_rocket_flies_from_any_start() -> None:
    """Most of these are lost at first, and start anew."""
    thrust, duration = torch.meshgrid(
        torch.linspace(0, 3, 6, dtype=DOUBLE), torch.tensor([0.02, 0.1, 0.3, 0.6, 1.0], dtype=DOUBLE), indexing="ij"
    )
    one = KNOWN["rocket"].problem()
    many = one.at(one.initial_state.expand(30, -1))
    controls = thrust.reshape(30, 1, 1).expand(30, one.steps, 1)
    found = C.solve(many, initial_guess=C.Guess(controls=controls, duration=duration.flatten()))
    assert found.converged.all()
    torch.testing.assert_close(found.cost, torch.full_like(found.cost, -1.01283607), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["van-der-pol", "bryson-denham", "zermelo", "minimum-fuel", "truck-trailer", "robertson"]
)
def test_a_reference_is_what_ipopt_finds(name: str) -> None:
    pytest.importorskip("casadi")
    other: Any = importlib.import_module("benchmarks.collection_ipopt")
    answer = other.ipopt(COLLECTION[name], 1e-10)
    assert answer.success
    assert answer.cost == pytest.approx(COLLECTION[name].reference.cost, rel=1e-8)
    assert followed(COLLECTION[name], torch.tensor(answer.controls, dtype=DOUBLE), answer.duration)[1] < 1e-8

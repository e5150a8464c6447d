"""Problems of the field from the default guess: what they cost beside IPOPT and beside what was published."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from plants import DOUBLE
from worldsheet_lab.control.collection import COLLECTION, Case, violation

C = ws.control

FAILING = {
    "van-der-pol": "slacks fall to nothing while the limit is broken; its multipliers grow to 1e137",
    "brachistochrone": "the first pull on the end is its distance over YIELD, 5e6; no multiplier comes back from it",
    "zermelo": "stays at a residual of 1.3e-8: rounding in the merit halves every step",
    "hang-glider": "steps of a thousandth; multipliers of the end grow; called infeasible",
    "hang-glider-metres": "likewise; solved in 17 ticks from controls in the middle of their bounds",
    "shuttle": "200 ticks: a hundred of them lost before the second start, at another minimum then",
    "shuttle-feet": "costates of 1e21 after a start that the air does not carry",
    "planar-quadrotor": "the guess falls for 78 m; slacks of the discs fall to nothing; called infeasible",
    "acrobot": "steps of a thousandth, then called infeasible",
    "cart-pole": "steps of a fiftieth: the merit's weight lies below the multipliers; 200 ticks do not suffice",
    "parking": "the first pull on the end is its distance over YIELD, 2e6; called infeasible",
    "van-de-vusse": "steps of a ten-thousandth: gaps of 1e-5 make the merit's weight 1e6",
    "robertson": "gaps of 0.3 between stages of the stiff flow, and no step leads downhill",
}
"""Those that fail today, and how."""

SLOW = {"chain-57", *FAILING}


def cases() -> list[Any]:
    def marks(name: str) -> list[Any]:
        slow = [pytest.mark.slow] if name in SLOW else []
        failing = [pytest.mark.xfail(strict=True, reason=FAILING[name])] if name in FAILING else []
        return [*slow, *failing]

    return [pytest.param(case, id=name, marks=marks(name)) for name, case in COLLECTION.items()]


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
        moved = midpoint(rates, state, dt) if isinstance(case.integrator, C.ImplicitMidpoint) else rk4(rates, state, dt)
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


def midpoint(rates: Any, state: Tensor, dt: float) -> Tensor:
    middle = state
    for _ in range(30):
        defect = state + dt / 2 * rates(middle)[:-1] - middle
        jacobian = torch.func.jacrev(lambda at: state + dt / 2 * rates(at)[:-1] - at)(middle)
        middle = middle - torch.linalg.solve(jacobian, defect)
    moved: Tensor = dt * rates(middle)
    return moved


@pytest.mark.parametrize("name", [name for name, case in COLLECTION.items() if case.reference.published is not None])
def test_a_reference_is_what_was_published(name: str) -> None:
    reference = COLLECTION[name].reference
    assert reference.cost == pytest.approx(reference.published, rel=reference.within)
    assert reference.publisher


@pytest.mark.parametrize("name", ["van-der-pol", "bryson-denham", "zermelo", "minimum-fuel", "truck-trailer"])
def test_a_reference_is_what_ipopt_finds(name: str) -> None:
    pytest.importorskip("casadi")
    other: Any = importlib.import_module("benchmarks.collection_ipopt")
    answer = other.ipopt(COLLECTION[name], 1e-10)
    assert answer.success
    assert answer.cost == pytest.approx(COLLECTION[name].reference.cost, rel=1e-8)
    assert followed(COLLECTION[name], torch.tensor(answer.controls, dtype=DOUBLE), answer.duration)[1] < 1e-8

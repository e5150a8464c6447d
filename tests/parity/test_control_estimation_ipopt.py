"""Estimation of a nonlinear plant beside IPOPT: the same discretisation, written in CasADi's words."""

from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from plants import DOUBLE, close

C = ws.control
ca = pytest.importorskip("casadi")
STEPS, DT = 25, 0.1


def rates(angle: Any, speed: Any, push: Any, stiff: Any, sine: Any) -> tuple[Any, Any]:
    return speed, push - stiff * sine(angle) - 0.2 * speed


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Rows (angle, torque) of a pendulum that is pushed about, and what was known of (x_0, stiffness) before."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(STEPS + 1, generator=draw, dtype=DOUBLE)
    x, rows = torch.tensor([1.2, -0.3], dtype=DOUBLE), []
    for k in range(STEPS + 1):
        torque = torch.tensor(0.5 if k % 10 < 5 else -0.5, dtype=DOUBLE)
        rows.append(torch.stack((x[0] + 0.1 * noise[k], torque)))
        for _ in range(20):
            x = x + DT / 20 * torch.stack(rates(x[0], x[1], torque, 3.0, torch.sin))
    return torch.stack(rows), torch.tensor([1.0, 0.0, 2.0], dtype=DOUBLE)


def ours(rows: Tensor, before: Tensor, most: float) -> C.Trajectory:
    def dynamics(x: Tensor, w: Tensor, t: Tensor, row: Tensor, p: Tensor) -> Tensor:
        return torch.stack(rates(x[..., 0], x[..., 1], row[..., 1] + w[..., 0], p[..., 0], torch.sin), -1)

    def misfit(x: Tensor, row: Tensor) -> Tensor:
        return 0.5 * ((x[..., 0] - row[..., 0]) / 0.1) ** 2

    return C.solve(
        C.Problem(
            dynamics=dynamics,
            running_cost=lambda x, w, t, row, p: 0.5 * (w[..., 0] / 0.3) ** 2,
            stage_cost=lambda x, w, t, row, p: misfit(x, row),
            terminal_cost=lambda x, row, p: misfit(x, row),
            initial_cost=lambda x, row, p: 0.5 * ((torch.cat((x, p), -1) - before) / 0.5).square().sum(-1),
            path_constraint=lambda x, w, t, row, p: x[..., 1:] - 1.5,
            initial_state=torch.zeros(2, dtype=DOUBLE),
            free_initial_state=True,
            unknowns=C.Unknowns(torch.tensor([1.0], dtype=DOUBLE), (0.1, most)),
            stage_data=rows,
            control_size=1,
            steps=STEPS,
            dt=DT,
            bounds=(-0.15, 0.15),
        ),
        tol=1e-10,
    )


def theirs(rows: Tensor, before: Tensor, most: float) -> tuple[float, Tensor]:
    """Cost, and (x_0, stiffness)."""
    opti = ca.Opti()
    states, noise, stiff = opti.variable(2, STEPS + 1), opti.variable(1, STEPS), opti.variable()
    known = before.tolist()
    cost = sum(
        0.5 * ((value - mean) / 0.5) ** 2
        for value, mean in zip((states[0, 0], states[1, 0], stiff), known, strict=True)
    )
    for k, (angle, torque) in enumerate(rows.tolist()):
        cost += 0.5 * ((states[0, k] - angle) / 0.1) ** 2
        if k == STEPS:
            break
        push = torque + noise[k]

        def rate(x: Any, push: Any = push) -> Any:
            return ca.vertcat(*rates(x[0], x[1], push, stiff, ca.sin))

        x = states[:, k]
        one = rate(x)
        two = rate(x + DT / 2 * one)
        three = rate(x + DT / 2 * two)
        opti.subject_to(states[:, k + 1] == x + DT / 6 * (one + 2 * two + 2 * three + rate(x + DT * three)))
        opti.subject_to(states[1, k] <= 1.5)
        cost += DT * 0.5 * (noise[k] / 0.3) ** 2
    opti.subject_to(opti.bounded(-0.15, noise, 0.15))
    opti.subject_to(opti.bounded(0.1, stiff, most))
    opti.minimize(cost)
    opti.set_initial(stiff, 1.0)
    quiet = {"ipopt.print_level": 0, "print_time": 0, "ipopt.tol": 1e-11, "ipopt.bound_relax_factor": 0.0}
    opti.solver("ipopt", quiet)
    found = opti.solve()
    values = [*found.value(states[:, 0]).tolist(), found.value(stiff)]
    return float(found.value(cost)), torch.tensor(values, dtype=DOUBLE)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("most", [10.0, 2.5])
def test_a_window_of_noisy_angles_is_explained_as_ipopt_explains_it(seed: int, most: float) -> None:
    rows, before = drawn(seed)
    sol = ours(rows, before, most)
    cost, values = theirs(rows, before, most)
    assert sol.outcome.converged
    assert sol.unknowns is not None
    assert float(sol.cost) == pytest.approx(cost, rel=1e-7)
    close(torch.cat((sol.states[0], sol.unknowns)), values, 1e-5)

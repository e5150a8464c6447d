"""Implicit integrators against quadrature, exact solutions, finite differences and autograd through the horizon."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from plants import DOUBLE, close
from worldsheet.control.discretized import Discretised
from worldsheet.control.expansion import expand_stages
from worldsheet.control.implicit import MIDPOINT, RADAU, ImplicitTableau

C = ws.control
TABLES = [pytest.param(table, id=f"{len(table.outer)}-substages") for table in RADAU]
METHODS = [C.ImplicitMidpoint(), C.RadauIIA(1), C.RadauIIA(2), C.RadauIIA(3)]
NAMES = ["midpoint", "radau-1", "radau-3", "radau-5"]


@pytest.mark.parametrize("table", TABLES)
def test_radaus_coefficients_integrate_polynomials(table: ImplicitTableau) -> None:
    inner, outer, nodes = (torch.tensor(part, dtype=DOUBLE) for part in table[:3])
    count = len(outer)
    for power in range(2 * count - 1):
        close(outer @ nodes**power, torch.tensor(1 / (power + 1), dtype=DOUBLE), 1e-15)
    for power in range(count):
        close(inner @ nodes**power, nodes ** (power + 1) / (power + 1), 1e-15)


@pytest.mark.parametrize("table", [*TABLES, pytest.param(MIDPOINT, id="midpoint")])
def test_the_end_of_a_step_is_that_of_the_rates(table: ImplicitTableau) -> None:
    inner, outer, _, onward = (torch.tensor(part, dtype=DOUBLE) for part in table)
    close(onward @ inner, outer, 1e-15)


def stepped(method: C.Integrator, flow: Any, state: Tensor, duration: float, count: int) -> tuple[Tensor, Tensor]:
    """State and cost after so many steps from time 0."""
    dt, cost = state.new_tensor(duration / count), state.new_zeros(())
    for k in range(count):
        state, spent = method.step(flow, state, k * dt, dt)
        cost = cost + spent
    return state, cost


@pytest.mark.parametrize(("method", "order"), list(zip(METHODS, (2, 1, 3, 5), strict=True)), ids=NAMES)
def test_errors_fall_with_the_order(method: C.Integrator, order: int) -> None:
    """x = exp(sin t) and the integral of its rate, whose flow depends on time and on the square of the state."""

    def flow(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = x**2 * (-t.sin()).exp()[..., None] * t.cos()[..., None]
        return rate, rate[..., 0]

    with torch.no_grad():
        counts = (16, 32) if order > 2 else (128, 256)
        found = [stepped(method, flow, torch.ones(1, dtype=DOUBLE), 1.5, count) for count in counts]
    exact = torch.tensor(1.5, dtype=DOUBLE).sin().exp()
    for coarse, fine in (
        [abs(state[0] - exact) for state, _ in found],
        [abs(cost - (exact - 1)) for _, cost in found],
    ):
        assert float((coarse / fine).log2()) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    ("method", "growth"),
    [
        (C.ImplicitMidpoint(1), lambda z: (1 + z / 2) / (1 - z / 2)),
        (C.RadauIIA(1, 1), lambda z: 1 / (1 - z)),
        (C.RadauIIA(2, 1), lambda z: (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6)),
        (C.RadauIIA(3, 1), lambda z: (1 + 2 * z / 5 + z**2 / 20) / (1 - 3 * z / 5 + 3 * z**2 / 20 - z**3 / 60)),
    ],
    ids=NAMES,
)
def test_a_mode_grows_by_the_methods_function(method: C.Integrator, growth: Callable[[Tensor], Tensor]) -> None:
    """In one iteration, the flow being linear; Padé's approximations of exp z."""
    modes = torch.tensor([[0.3], [-0.5], [-3.0], [-40.0], [-1e4], [-1e9]], dtype=DOUBLE)

    def flow(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return modes * x, torch.zeros_like(t)

    after, _ = method.step(
        flow, torch.ones(6, 1, dtype=DOUBLE), torch.zeros(6, dtype=DOUBLE), torch.ones(6, dtype=DOUBLE)
    )
    torch.testing.assert_close(after, growth(modes), rtol=1e-6, atol=1e-12)
    if isinstance(method, C.RadauIIA):
        assert float(after[-1].abs()) < 1e-8


def kinetics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """Robertson's, the first rate chosen, with a tide."""
    first, back, fast = 0.04 * u[..., 0] * x[..., 0], 1e4 * x[..., 1] * x[..., 2], 3e7 * x[..., 1] ** 2
    tide = 1 + 0.3 * t.sin()
    return torch.stack((back - first * tide, first * tide - back - fast, fast), -1)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_derivatives_are_those_of_the_root(method: C.Integrator) -> None:
    """First and second, by finite differences of values and of first derivatives."""
    state = torch.tensor([[0.9, 3e-5, 0.1], [0.7, 2e-5, 0.3]], dtype=DOUBLE)
    given = [state, torch.tensor([1.2, 0.7], dtype=DOUBLE), torch.tensor([0.3, 0.4], dtype=DOUBLE)]
    given.append(torch.tensor([[1.0], [2.0]], dtype=DOUBLE))
    scale = torch.tensor([1.0, 1e-5, 1.0], dtype=DOUBLE)

    def step(x: Tensor, t: Tensor, dt: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        def flow(at: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
            lead = at.shape[:-1]
            return kinetics(at, u.expand(*lead, 1), now.expand(lead)), at.square().sum(-1) + u[..., 0] ** 3

        after, cost = method.step(flow, x * scale, t, dt)
        return after / scale, cost

    leaves = [(given[0] / scale).requires_grad_(), *(part.requires_grad_() for part in given[1:])]
    assert torch.autograd.gradcheck(step, leaves, eps=1e-5, atol=1e-6, rtol=1e-5)
    assert torch.autograd.gradgradcheck(step, leaves, eps=1e-5, atol=1e-5, rtol=1e-4)


def stiff(integrator: C.Integrator, **changes: Any) -> C.Problem:
    """Robertson's kinetics for two starts, a parameter in its cost, its duration free."""
    settings: dict[str, Any] = {
        "dynamics": lambda x, u, t, q: kinetics(x, u, t),
        "running_cost": lambda x, u, t, q: (x[..., 2] - q[..., 0]) ** 2 + 1e-3 * (u[..., 0] - 1) ** 2,
        "initial_state": torch.tensor([[1.0, 0.0, 0.0], [0.8, 1e-5, 0.2]], dtype=DOUBLE),
        "control_size": 1,
        "steps": 20,
        "dt": 0.5,
        "bounds": (0.1, 3.0),
        "parameters": torch.tensor([[0.3], [0.4]], dtype=DOUBLE),
        "integrator": integrator,
        **changes,
    }
    return C.Problem(**settings)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
def test_an_expansion_is_that_of_autograd_through_the_step(method: C.Integrator, free: bool) -> None:
    """Two ways to the same numbers: linear solves with the substages' slopes, and autograd through the step itself."""
    problem = stiff(method, duration=C.FreeDuration(10.0) if free else None, steps=3)
    flat = Discretised.of(problem)
    generator = torch.Generator().manual_seed(0)
    states = torch.tensor([0.9, 3e-5, 0.1], dtype=DOUBLE).expand(2, 3, 3)
    pieces = [states, 0.1 * torch.randn(2, 3, 1, dtype=DOUBLE, generator=generator)] if free else [states]
    points = torch.cat((*pieces, 1 + torch.rand(2, 3, 1, dtype=DOUBLE, generator=generator)), -1)
    weights = torch.randn(2, 3, 1 + flat.size + 2, dtype=DOUBLE, generator=generator)
    found = expand_stages(flat, points, weights)
    jacobian = torch.autograd.functional.jacobian(lambda at: flat.stages(at).sum((0, 1)), points)
    close(found.values, flat.stages(points).detach(), 1e-12)
    size = jacobian.movedim(0, -2).abs().amax((0, 1)).clamp(min=1.0)
    close(found.jacobian / size, jacobian.movedim(0, -2) / size, 1e-9)
    for b, k in ((0, 0), (1, 2)):

        def weighted(at: Tensor, b: int = b, k: int = k) -> Tensor:
            whole = points.index_put((torch.tensor(b), torch.tensor(k)), at)
            return (weights[b, k] * flat.stages(whole)[b, k]).sum()

        hessian = torch.autograd.functional.hessian(weighted, points[b, k])
        close(found.hessian[b, k] / hessian.abs().max(), hessian / hessian.abs().max(), 1e-9)


def test_a_stage_that_is_not_solved_is_no_number() -> None:
    """Three iterations leave the second substance a hundred times too large."""
    flat = Discretised.of(stiff(C.RadauIIA(iterations=3)))
    points = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=DOUBLE).expand(2, 20, 4)
    assert flat.stages(points)[..., :4].isnan().all()
    enough = Discretised.of(stiff(C.RadauIIA())).stages(points)
    assert enough.isfinite().all()
    close(enough[..., 1:4].sum(-1), torch.ones(2, 20, dtype=DOUBLE), 1e-13)


def test_a_batch_of_stiff_problems_costs_what_its_problems_cost() -> None:
    problem = stiff(C.RadauIIA())
    whole = C.solve(problem)
    assert whole.converged.all()
    for k in range(2):
        own = torch.tensor([0.3 + 0.1 * k], dtype=DOUBLE)
        alone = stiff(C.RadauIIA(), initial_state=problem.initial_state[k], parameters=own)
        close(C.solve(alone).cost, whole.cost[k], 1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's code generator, of torch
def test_compiled_kinetics_end_at_the_same_solution() -> None:
    """Machine code has no form of a factorisation: it goes by torch's generator, with the same numbers."""
    eager, code = (
        C.solve(stiff(C.RadauIIA(2), execution=execution), tol=1e-8) for execution in (C.Eager(), C.Compiled())
    )
    assert eager.converged.all()
    assert code.converged.all()
    assert eager.ticks.tolist() == code.ticks.tolist()
    close(code.cost, eager.cost, 1e-12)
    close(code.controls, eager.controls, 1e-7)

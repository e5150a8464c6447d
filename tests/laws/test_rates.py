"""Away from unit rate: convergence inside (0, 2), published tick counts, and the doubled reading of a tick."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Net, assert_gradients, distance, exact, law, nets, random_fields, regression, tanh_net

RATES = st.floats(0.2, 1.8).filter(lambda rate: rate != 1)  # rate 1 is in test_exactness.py


@law(15)
@given(RATES, st.integers(1, 3), st.integers(0, 2**10), st.sampled_from([1e-4, 1e-8]))
def test_every_rate_between_zero_and_two_converges(rate: float, depth: int, seed: int, tol: float) -> None:
    net = tanh_net(depth, width=3, seed=seed)
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(rate), stop=ws.Stop(tol=tol))
    assert sol.outcome.status is ws.Status.CONVERGED
    assert sol.outcome.residual is not None
    assert sol.outcome.residual <= tol
    assert distance(sol.gradients(), exact(net)) < 100 * tol * max(1, 1 / rate) ** 2


@pytest.mark.parametrize(("rate", "depth"), [(0.3, 2), (0.75, 5), (1.2, 5), (1.8, 3)])
def test_the_default_stop_reaches_rounding(rate: float, depth: int) -> None:
    net = tanh_net(depth, width=3)
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(rate))
    assert_gradients(sol.gradients(), exact(net))
    assert sol.outcome.converged


@law(10)
@given(st.floats(0.7, 1.3), nets(max_depth=4), st.integers(0, 2**10))
def test_the_start_is_forgotten_at_any_rate(rate: float, net: Net, seed: int) -> None:
    start = random_fields(ws.relax(net.chain, net.x, net.target).fields, seed)
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(rate), stop=ws.Stop(max_ticks=120), initial=start)
    assert_gradients(sol.gradients(), exact(net), tol=1e-7)


@pytest.mark.parametrize("rate", [0.4, 0.7, 1.3])
@pytest.mark.parametrize("schedule", ["sweeps", "asynchronous"])
def test_other_orders_reach_the_same_fixed_point(rate: float, schedule: str) -> None:
    net = tanh_net(4)
    order = ws.Sweep(count=None) if schedule == "sweeps" else ws.Asynchronous(torch.Generator().manual_seed(3))
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(rate), schedule=order)
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net))


@pytest.mark.parametrize("max_delay", [1, 3])
def test_late_messages_only_delay_a_slow_rate(max_delay: int) -> None:
    net = tanh_net(4)
    order = ws.Asynchronous(torch.Generator().manual_seed(3), max_delay)
    sol = ws.relax(
        net.chain, net.x, net.target, ws.Dyadic(0.5), schedule=order, stop=ws.Stop(tol=1e-13, max_ticks=2000)
    )
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net))


@pytest.mark.parametrize(("rate", "fewest", "most"), [(0.9, 19, 29), (0.75, 25, 39), (0.5, 40, 70), (0.25, 80, 145)])
@pytest.mark.parametrize("width", [32, 64])
def test_ticks_to_a_gradient_error_of_1e_4_are_as_published(rate: float, fewest: int, most: int, width: int) -> None:
    net = tanh_net(9, width)
    wanted = exact(net)

    def error(ticks: int) -> float:
        sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(rate), stop=ws.Stop(max_ticks=ticks))
        found = sol.gradients()
        whole = torch.cat([gradient.flatten() for gradient in wanted.values()])
        return float((torch.cat([found[name].flatten() for name in wanted]) - whole).norm() / whole.norm())

    assert error(fewest - 1) > 1e-4
    assert error(most) < 1e-4


def energy(net: Net, climbing: tuple[Tensor, ...], descending: tuple[Tensor, ...]) -> Tensor:
    """E(x̂, ẑ) = Σ_l s_lᵀ(f_l(m_{l-1}) − m_l) + C(m_L) with m = (x̂ + ẑ)/2 and s = x̂ − ẑ."""
    means = [net.x, *((hat + check) / 2 for hat, check in zip(climbing, descending, strict=True))]
    differences = [hat - check for hat, check in zip(climbing, descending, strict=True)]
    total = net.loss(means[-1], net.target)
    for layer, below, mean, difference in zip(net.chain.layers, means, means[1:], differences, strict=False):
        total = total + (difference * (layer.module(below) - mean)).sum()
    return total


@law(25)
@given(nets(max_depth=5), st.floats(0.01, 1.99), st.integers(0, 2**10))
def test_one_tick_is_one_euler_step_of_the_doubled_flow(net: Net, rate: float, seed: int) -> None:
    start = random_fields(ws.relax(net.chain, net.x, net.target).fields, seed)
    climbing, descending = ([t.requires_grad_() for t in copy] for copy in start.doubled())
    slopes = torch.autograd.grad(energy(net, tuple(climbing), tuple(descending)), climbing + descending)
    size = len(climbing)
    up = [hat + rate * slope for hat, slope in zip(climbing, slopes[:size], strict=True)]
    down = [check - rate * slope for check, slope in zip(descending, slopes[size:], strict=True)]
    one = ws.relax(
        net.chain,
        net.x,
        net.target,
        ws.Dyadic(rate),
        schedule=ws.Synchronous(),
        stop=ws.Stop(max_ticks=1),
        initial=start,
    )
    for mine, other in zip(one.fields.doubled(), (up, down), strict=True):
        torch.testing.assert_close(mine, tuple(tensor.detach() for tensor in other), rtol=1e-11, atol=1e-11)


@law(25)
@given(nets(max_depth=5), st.integers(0, 2**10))
def test_doubled_and_back_are_inverse(net: Net, seed: int) -> None:
    fields = random_fields(ws.relax(net.chain, net.x, net.target).fields, seed)
    climbing, descending = fields.doubled()
    for state, costate, hat, check in zip(fields.states, fields.costates, climbing, descending, strict=True):
        torch.testing.assert_close(hat, state + costate / 2, rtol=0, atol=0)
        torch.testing.assert_close(check, state - costate / 2, rtol=0, atol=0)
    back = ws.Fields.from_doubled(climbing, descending)
    torch.testing.assert_close(back.states, fields.states, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(back.costates, fields.costates, rtol=1e-14, atol=1e-14)


def test_at_rest_the_mean_is_the_forward_pass_and_the_difference_the_adjoint() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    climbing, descending = ws.relax(net.chain, net.x, net.target).fields.doubled()
    states = [net.x]
    for layer in net.chain.layers:
        states.append(layer.module(states[-1]))
    adjoints = torch.autograd.grad(net.loss(states[-1], net.target), states[1:])
    for hat, check, state, adjoint in zip(climbing, descending, states[1:], adjoints, strict=True):
        torch.testing.assert_close((hat + check) / 2, state.detach(), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(hat - check, adjoint, rtol=1e-12, atol=1e-14)


def test_a_layer_that_dies_on_the_way_converges_like_the_others() -> None:
    # The unit lives while its input is below 1/2 and is dead at rest: its costate then halves at every tick, for ever.
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Linear(1, 1)).to(DOUBLE)
    for name, weight, bias in zip(("0", "1.0", "2"), (1.0, -2.0, 1.0), (0.0, 1.0, 0.0), strict=True):
        nn.init.constant_(net.get_parameter(f"{name}.weight"), weight)
        nn.init.constant_(net.get_parameter(f"{name}.bias"), bias)
    x = torch.ones(1, 1, dtype=DOUBLE)
    chain = ws.Chain(net, nn.MSELoss())
    sol = ws.relax(chain, x, 3 * x, ws.Dyadic(0.5), stop=ws.Stop(tol=1e-6))
    assert float(sol.costates[0].abs()) < 1e-6
    assert sol.outcome.converged
    assert sol.ticks < 100  # down to rounding of the largest message, not to the smallest number there is

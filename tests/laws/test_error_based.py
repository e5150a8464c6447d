"""Error-based predictive coding is descent in the errors, and at its first tick all credit is there."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import Net, assert_gradients, assert_tells, asynchronous, law, nets, regression, stack, tanh_net
from worldsheet.core.types import Field
from worldsheet.dynamics import ErrorBasedCoding
from worldsheet.substrates import Delayed


def forward(net: Net, errors: list[Tensor]) -> list[Tensor]:
    """States whose errors are given; the last has none."""
    states, x = [], net.x
    for index, layer in enumerate(net.chain.layers):
        x = layer.module(x) + errors[index] if index < len(errors) else layer.module(x)
        states.append(x)
    return states


def by_hand(net: Net, rate: float, precision: float, ticks: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """States, and the energy's slopes in the parameters, after descent in the errors written out with autograd."""
    samples = len(net.x)
    errors = [torch.zeros_like(state).requires_grad_() for state in forward(net, [])[:-1]]
    for _ in range(min(ticks, ticks * len(errors))):
        energy = samples * net.loss(forward(net, errors)[-1], net.target)
        energy = energy + 0.5 * precision * sum(error.square().sum() for error in errors)
        slopes = torch.autograd.grad(energy, errors)
        errors = [(e - rate / precision * g).detach().requires_grad_() for e, g in zip(errors, slopes, strict=True)]
    states = [state.detach() for state in forward(net, errors)]
    layers, below = [layer.module for layer in net.chain.layers], [net.x, *states]
    energy = net.loss(layers[-1](below[-2]), net.target)
    for layer, x, state in zip(layers[:-1], below, states, strict=False):
        energy = energy + 0.5 * precision * (state - layer(x)).square().sum() / samples
    named = {name: p for name, p in net.chain.named_parameters() if p.requires_grad}
    found: Sequence[Tensor | None] = ()
    if named:
        found = torch.autograd.grad(energy, list(named.values()), allow_unused=True)
    return states, {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def as_a_module(net: Net) -> ws.Chain:
    """The same sites, found by running the module."""
    sites = {layer.module for layer in net.chain.layers}
    return ws.Chain(net.module, net.loss, blocks=lambda module: module in sites)


@law(60)
@given(nets(max_depth=7), st.floats(0.05, 0.6), st.floats(0.5, 5.0), st.integers(0, 4), st.booleans())
def test_it_is_descent_in_the_errors(net: Net, rate: float, precision: float, ticks: int, opened: bool) -> None:
    states, gradients = by_hand(net, rate, precision, ticks)
    chain = as_a_module(net) if opened else net.chain
    dynamics = ErrorBasedCoding(rate, precision, positions=1)
    x = net.x.clone().requires_grad_()
    sol = ws.relax(chain, x, net.target, dynamics, stop=ws.Stop(max_ticks=ticks))
    for ours, theirs in zip(sol.states, states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    found = sol.gradients()
    assert found.keys() <= gradients.keys()
    assert_gradients(found, {name: gradients[name] for name in found}, tol=1e-8)
    missing = [float(gradients[name].norm()) for name in gradients.keys() - found.keys()]
    assert not any(missing)


@pytest.mark.parametrize("opened", [False, True])
def test_at_the_first_tick_every_layer_has_its_share_of_backprops_credit(opened: bool) -> None:
    """Where predictive coding has reached one layer of forty."""
    net = tanh_net(40)
    chain = as_a_module(net) if opened else net.chain
    once = ws.Stop(max_ticks=1)
    wanted = ws.relax(chain, net.x, net.target).costates
    sol = ws.relax(chain, net.x, net.target, ErrorBasedCoding(0.3), stop=once)
    for ours, theirs in zip(sol.costates[:-1], wanted, strict=False):
        torch.testing.assert_close(ours, 0.3 * theirs, rtol=1e-10, atol=0.0)
    diffusing = ws.relax(chain, net.x, net.target, ws.PredictiveCoding(0.3), stop=once)
    reached = [float(c.norm()) > 1e-9 * float(w.norm()) for c, w in zip(diffusing.costates, wanted, strict=True)]
    assert sum(reached) <= 2


@pytest.mark.parametrize("opened", [False, True])
def test_synchronous_states_follow_the_errors_of_the_tick_before(opened: bool) -> None:
    net = tanh_net(4)
    chain = as_a_module(net) if opened else net.chain
    dynamics = ErrorBasedCoding(0.3)
    late = ws.relax(chain, net.x, net.target, dynamics, schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=2))
    start = ws.relax(chain, net.x, net.target, dynamics, stop=ws.Stop(max_ticks=1))
    once = ws.relax(
        chain,
        net.x,
        net.target,
        dynamics,
        schedule=ws.Leapfrog(Field.COSTATE),
        initial=start.fields,
        stop=ws.Stop(max_ticks=1),
    )
    for ours, theirs in zip(late.states, start.states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(once.states[0], late.states[0], rtol=1e-6)


def test_unlocked_weights_move_by_the_same_energy_in_both_engines() -> None:
    """At each tick, from the moment that errors are made at: the literal loop of errors and weights together."""
    one, two, literal = tanh_net(4), tanh_net(4), tanh_net(4)
    ticks, rate = 6, 0.3
    for net, chain in ((one, one.chain), (two, as_a_module(two))):
        port = torch.optim.SGD(net.module.parameters(), 0.1)
        x = net.x.clone().requires_grad_()
        ws.unlocked(chain, x, net.target, port, ErrorBasedCoding(rate), ticks=ticks)
    layers = list(literal.module)
    port = torch.optim.SGD(literal.module.parameters(), 0.1)
    samples, credits = len(literal.x), [torch.zeros_like(state) for state in forward(literal, [])[:-1]]
    states = [state.detach() for state in forward(literal, [])]
    for _ in range(ticks):
        read = zip(layers, [literal.x, *states], states[:-1], strict=False)
        errors = [(state - layer(x)).detach().requires_grad_() for layer, x, state in read]
        slopes = torch.autograd.grad(literal.loss(forward(literal, errors)[-1], literal.target), errors)
        port.zero_grad()
        energy = literal.loss(layers[-1](states[-2]), literal.target)
        for layer, x, credit in zip(layers[:-1], [literal.x, *states], credits, strict=False):
            energy = energy + (credit * layer(x)).sum()
        energy.backward()
        credits = [credit + rate * (slope - credit) for credit, slope in zip(credits, slopes, strict=True)]
        with torch.no_grad():
            states = [literal.x]
            for layer, moved in zip(layers, credits, strict=False):
                states.append(layer(states[-1]) - samples * moved)
            states = [*states[1:], layers[-1](states[-1])]
        port.step()
    for mine, other, wanted in zip(
        one.module.parameters(), two.module.parameters(), literal.module.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(other, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("precision", [1.0, 0.2])
@pytest.mark.parametrize("opened", [False, True])
def test_the_estimated_rate_is_one_over_the_largest_curvature(depth: int, precision: float, opened: bool) -> None:
    torch.manual_seed(depth)
    net = regression(stack(depth, activation=nn.ReLU))
    errors = [torch.zeros_like(state) for state in forward(net, [])[:-1]]
    sizes = [error.numel() for error in errors]

    def energy(flat: Tensor) -> Tensor:
        moved = [part.reshape(e.shape) for part, e in zip(flat.split(sizes), errors, strict=True)]
        cost = len(net.x) * net.loss(forward(net, moved)[-1], net.target)
        return cost / precision + 0.5 * flat.square().sum()

    hessian = torch.autograd.functional.hessian(energy, torch.cat([error.flatten() for error in errors]))
    chain = as_a_module(net) if opened else net.chain
    found = ws.calibrate(chain, net.x, net.target, ErrorBasedCoding(precision=precision))
    assert isinstance(found, ErrorBasedCoding)
    assert found.rate == pytest.approx(1 / float(torch.linalg.eigvalsh(hessian)[-1]), rel=0.02)


def test_its_step_is_followed_through_training() -> None:
    """The curvature grows with the weights, and the step goes down as it does."""
    net = tanh_net(5)
    followed, stop = ws.Calibration(ErrorBasedCoding(), every=1), ws.Stop(max_ticks=5)
    ws.backward(net.chain, net.x, net.target, followed, stop=stop)
    before = followed.step
    with torch.no_grad():
        for parameter in net.chain.parameters():
            parameter.mul_(1.5)
    for _ in range(12):
        ws.backward(net.chain, net.x, net.target, followed, stop=stop)
    fresh = ws.calibrate(net.chain, net.x, net.target, ErrorBasedCoding())
    assert isinstance(fresh, ErrorBasedCoding)
    assert before is not None
    assert followed.step is not None
    assert followed.step < 0.8 * before
    assert followed.step == pytest.approx(fresh.rate, rel=0.1)


def test_a_step_that_is_too_long_is_told() -> None:
    net = tanh_net(6)
    found = ws.calibrate(net.chain, net.x, net.target, ErrorBasedCoding(precision=0.05))
    assert isinstance(found, ErrorBasedCoding)
    assert found.rate is not None
    long = ErrorBasedCoding(3 * found.rate, precision=0.05)
    sol = ws.relax(net.chain, net.x, net.target, long, stop=ws.Stop(max_ticks=12))
    assert sol.outcome.growing or sol.outcome.status is ws.Status.DIVERGED, sol.outcome


@pytest.mark.parametrize(
    ("dynamics", "schedule"),
    [
        (ErrorBasedCoding(0.1), asynchronous(0, 1)),
        (ErrorBasedCoding(0.1), ws.Sweep(count=None)),
        (Delayed(ErrorBasedCoding(0.1), 1), None),
    ],
)
def test_what_would_keep_it_from_crossing_is_refused(
    dynamics: ws.dynamics.Dynamics, schedule: ws.schedules.Schedule | None
) -> None:
    net = tanh_net(3)
    with pytest.raises(ws.errors.InputError) as caught:
        ws.relax(net.chain, net.x, net.target, dynamics, schedule=schedule)
    assert_tells(caught.value, "cross the network within a tick", "leave schedule out", "PredictiveCoding()")


def test_stages_refuse_it() -> None:
    net = tanh_net(4)
    with pytest.raises(ws.errors.InputError) as caught:
        ws.pipeline.relax(net.chain, 2, net.x, net.target, ErrorBasedCoding(0.1))
    assert_tells(caught.value, "credit of the whole network", "neighbours", "PredictiveCoding()")

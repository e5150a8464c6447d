"""Rates, precisions and penalties of each site: every engine does what is written out, and the rest is the energy's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells, stack, tanh_net
from worldsheet.dynamics import ErrorBasedCoding, Hopfield
from worldsheet.dynamics.per_site import kept

States = list[Tensor]
Numbers = tuple[float, ...]


def squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def networks() -> dict[str, nn.Sequential]:
    torch.manual_seed(0)
    return {
        "dense": nn.Sequential(*[nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(6)], nn.Linear(5, 3)),
        "residual": nn.Sequential(nn.Linear(5, 5), *[ws.nn.ResidualLinear(5, 0.3) for _ in range(4)], nn.Linear(5, 3)),
        "mixed": nn.Sequential(
            nn.Linear(5, 5), nn.LayerNorm(5), *[nn.Linear(5, 5) for _ in range(3)], nn.Tanh(), nn.Linear(5, 3)
        ),
    }


def spread(low: float, high: float, count: int, seed: int) -> Numbers:
    generator = torch.Generator().manual_seed(seed)
    return tuple((low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)).tolist())


def literal(
    net: nn.Sequential, x: Tensor, target: Tensor, ticks: int, rates: Numbers, duals: Numbers, rho: Numbers
) -> States:
    """Descent of the states, and ascent of multipliers by `duals`, with constants of each site."""
    batch, hidden = len(x), len(net) - 1
    states: States = []
    for layer in list(net)[:-1]:
        states.append(layer([x, *states][-1]).detach())
    multipliers = [torch.zeros_like(state) for state in states]
    for _ in range(ticks):
        states = [state.detach().requires_grad_() for state in states]
        below = [x, *states]
        gaps = [net[site](below[site]) - states[site] for site in range(hidden)]
        multipliers = [m + d * gap.detach() / batch for m, d, gap in zip(multipliers, duals, gaps, strict=True)]
        energy = squares(net[hidden](below[-1]), target)
        for multiplier, gap, weight in zip(multipliers, gaps, rho, strict=False):
            energy = energy + (multiplier * gap).sum() + 0.5 * weight * gap.square().sum() / batch
        slopes = torch.autograd.grad(energy, states)
        states = [(s - rate * batch * g).detach() for s, rate, g in zip(states, rates, slopes, strict=False)]
    return states


RULES: dict[str, Callable[[Numbers, Numbers, Numbers], ws.dynamics.Dynamics]] = {
    "pc": lambda rates, duals, rho: ws.PredictiveCoding(rates, precision=rho),
    "pc-alm": lambda rates, duals, rho: ws.AugmentedLagrangian(rates, dual_rate=duals, penalty=rho),
}


@pytest.mark.parametrize("name", list(networks()))
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("engine", ["stacked", "site by site", "opened"])
def test_every_engine_takes_each_sites_own(name: str, rule: str, engine: str) -> None:
    net = networks()[name].double()
    count, ticks = len(net), 9
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    target = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    rates, duals, rho = spread(0.05, 0.2, count, 2), spread(0.2, 0.7, count, 3), spread(0.5, 1.5, count, 4)
    dynamics = RULES[rule](rates, duals, rho)
    blocks = (lambda module: module in set(net.children())) if engine == "opened" else None
    chain = ws.Chain(net, squares, blocks=blocks)
    stop = ws.Stop(max_ticks=ticks)
    sol = ws.relax(chain, x.clone().requires_grad_(), target, dynamics, stop=stop, stack=engine == "stacked")
    still = (0.0,) * (count - 1)
    wanted = literal(net, x, target, ticks, rates, duals[:-1] if rule == "pc-alm" else still, rho)
    moved = 0.0
    for ours, theirs, start in zip(sol.states, wanted, ws.relax(chain, x, target).states, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        moved = max(moved, float((ours - start).norm()))
    assert moved > 0.05


@pytest.mark.parametrize("dynamics", [ws.PredictiveCoding, ErrorBasedCoding])
def test_the_rest_is_that_of_the_weighted_energy(dynamics: Callable[..., ws.dynamics.Dynamics]) -> None:
    net, rho = tanh_net(5), (0.3, 2.0, 1.0, 0.5, 1.0)
    stop = ws.Stop(max_ticks=20000, tol=1e-11, every=10)
    sol = ws.relax(net.chain, net.x, net.target, dynamics(precision=rho), stop=stop)
    assert sol.outcome.converged, sol.outcome
    layers = [layer.module for layer in net.chain.layers]
    states = [state.clone().requires_grad_() for state in sol.states[:-1]]
    below = [net.x, *states]
    energy = len(net.x) * net.loss(layers[-1](below[-1]), net.target)
    for layer, read, state, weight in zip(layers, below, states, rho, strict=False):
        energy = energy + 0.5 * weight * (state - layer(read)).square().sum()
    for slope in torch.autograd.grad(energy, states):
        assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("dynamics", [ws.PredictiveCoding, ErrorBasedCoding])
def test_the_step_is_that_of_the_weighted_energy(dynamics: Callable[..., ws.dynamics.Dynamics]) -> None:
    """From the dense Hessian, in states or in errors of unit weight, of layers that are piecewise linear."""
    torch.manual_seed(3)
    net, x, target = stack(4, activation=nn.ReLU), torch.randn(3, 4).double(), torch.randn(3, 4).double()
    rho = (0.3, 2.0, 1.0, 1.0)
    chain = ws.Chain(net, squares)
    forward = list(ws.relax(chain, x, target).states[:-1])

    def in_states(flat: Tensor) -> Tensor:
        states = [part.reshape(3, 4) for part in flat.split(12)]
        below = [x, *states]
        gaps = [
            0.5 * w * (net[i](below[i]) - state).square().sum()
            for i, (w, state) in enumerate(zip(rho, states, strict=False))
        ]
        return torch.stack(gaps).sum() + 3 * squares(net[3](below[-1]), target)

    def in_errors(flat: Tensor) -> Tensor:
        y = x
        for i, part in enumerate(flat.split(12)):
            y = net[i](y) + part.reshape(3, 4) / rho[i] ** 0.5
        return 3 * squares(net[3](y), target) + 0.5 * flat.square().sum()

    start = torch.cat([state.flatten() for state in forward])
    given = (in_states, start) if dynamics is ws.PredictiveCoding else (in_errors, torch.zeros_like(start))
    wanted = 1 / float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(*given))[-1])
    found = ws.calibrate(chain, x, target, dynamics(precision=rho))
    assert isinstance(found, ws.PredictiveCoding | ErrorBasedCoding)
    assert found.rate == pytest.approx(wanted, rel=0.02)


def test_equal_numbers_are_one_number() -> None:
    """Also where they were in a list or a tensor."""
    listed, tensor = kept([0.1] * 5), kept(torch.full((5,), 2.0))
    net, stop = tanh_net(5), ws.Stop(max_ticks=7)
    for one, many in (
        (ws.PredictiveCoding(0.1, precision=2.0), ws.PredictiveCoding(listed, precision=tensor)),
        (ws.AugmentedLagrangian(0.1, 0.5), ws.AugmentedLagrangian((0.1,) * 5, (0.5,) * 5, (1.0,) * 5)),
        (ErrorBasedCoding(0.1, 2.0), ErrorBasedCoding(0.1, (2.0,) * 5)),
    ):
        ours, theirs = (ws.relax(net.chain, net.x, net.target, each, stop=stop) for each in (many, one))
        for mine, other in zip(ours.states + ours.costates, theirs.states + theirs.costates, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [ErrorBasedCoding, lambda rate: Hopfield(rate=rate)])
@pytest.mark.parametrize("stacked", [True, False])
def test_at_the_first_tick_each_site_goes_as_far_as_its_own_rate(
    make: Callable[[Any], ws.dynamics.Dynamics], stacked: bool
) -> None:
    """As far as with that rate everywhere, since all read the forward pass."""
    net, rates, once = tanh_net(4), (0.1, 0.4, 0.2, 0.3), ws.Stop(max_ticks=1)
    field = "costates" if make is ErrorBasedCoding else "states"
    found = getattr(ws.relax(net.chain, net.x, net.target, make(rates), stop=once, stack=stacked), field)
    for site, rate in enumerate(rates):
        alone = getattr(ws.relax(net.chain, net.x, net.target, make(rate), stop=once, stack=stacked), field)
        torch.testing.assert_close(found[site], alone[site], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (lambda: ws.PredictiveCoding((0.1, 0.2), precision=(1.0,)), ["rate 2, precision 1", "equally long"]),
        (lambda: ws.PredictiveCoding(0.1, precision=(1.0, 0.0)), ["precision must be a positive", "got 0.0"]),
        (lambda: ws.AugmentedLagrangian(dual_rate=(0.1, 0.5), penalty=(1.0, 0.2)), ["dual_rate=0.5", "= 0.4"]),
        (
            lambda: ws.PredictiveCoding((0.1,) * 3, prediction=ws.dynamics.Prediction.FIXED),
            ["rate must be one number", "got 3"],
        ),
    ],
)
def test_constants_that_cannot_be_are_refused(make: Callable[[], object], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        make()
    assert_tells(caught.value, *fragments)


@pytest.mark.parametrize(
    "dynamics",
    [
        ws.PredictiveCoding((0.1, 0.2)),
        ws.PredictiveCoding(precision=(0.1, 0.2)),
        ws.AugmentedLagrangian(0.1, penalty=(1.0, 2.0)),
        ErrorBasedCoding(precision=(0.1, 0.2)),
        ErrorBasedCoding((0.1, 0.2)),
        Hopfield(rate=(0.1, 0.2)),
    ],
)
@pytest.mark.parametrize("stacked", [True, False])
def test_constants_for_another_depth_are_refused(dynamics: ws.dynamics.Dynamics, stacked: bool) -> None:
    net = tanh_net(4)
    with pytest.raises(ws.errors.InputError) as caught:
        ws.relax(net.chain, net.x, net.target, dynamics, stack=stacked)
    assert_tells(caught.value, "has 2 numbers", "4 sites", "chain.sites(x)")

"""Waves: one fixed point at any impedance, the Courant limit, the limiter's guarantee, wave variables and junctions."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import Net, Residual, distance, exact, law, nets, random_fields, regression, stack
from worldsheet.problem import linearise

INF = math.inf


def network(kind: str, depth: int, width: int = 5, seed: int = 0) -> Net:
    """Plain tanh or relu layers, or residual ones, with standard weights."""
    torch.manual_seed(seed)
    if kind == "residual":
        return regression(nn.Sequential(*[Residual(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]), width)
    return regression(stack(depth, width, {"tanh": nn.Tanh, "relu": nn.ReLU, "linear": nn.Identity}[kind]), width)


def relaxed(net: Net, wave: ws.dynamics.Dynamics, ticks: int, tol: float | None = 1e-10) -> ws.Solution:
    net.module.double()
    return ws.relax(net.chain, net.x, net.target, wave, stop=ws.Stop(max_ticks=ticks, tol=tol, every=5))


@pytest.mark.parametrize("kind", ["tanh", "relu", "residual"])
@pytest.mark.parametrize("depth", [2, 5, 16])
@pytest.mark.parametrize("impedance", ["number", "sequence", "matched"])
def test_the_default_wave_rests_on_backprops_gradient_in_a_few_crossings(kind: str, depth: int, impedance: str) -> None:
    kinds: dict[str, float | tuple[float, ...] | ws.dynamics.Impedance] = {
        "number": 0.5,
        "sequence": tuple(1.5 ** (site % 3) for site in range(depth)),
        "matched": ws.dynamics.Matched(),
    }
    net = network(kind, depth)
    sol = relaxed(net, ws.Wave(impedance=kinds[impedance]), 12 * depth + 60)
    assert sol.outcome.converged, sol.outcome
    assert distance(sol.gradients(), exact(net)) < 1e-8


@law(4)
@given(nets(max_depth=4), st.floats(0.2, 0.95), st.floats(0.01, 100.0), st.integers(0, 100))
def test_the_limiter_makes_every_network_converge_from_any_start(
    net: Net, matching: float, impedance: float, seed: int
) -> None:
    start = random_fields(ws.relax(net.chain, net.x, net.target).fields, seed)
    wave = ws.Wave(impedance=impedance, matching=matching, limit=0.3)
    sol = ws.relax(net.chain, net.x, net.target, wave, stop=ws.Stop(max_ticks=120), initial=start)
    wanted = exact(net)
    for name, gradient in sol.gradients().items():
        assert float((gradient - wanted[name]).norm()) <= 1e-5 * float(wanted[name].norm()) + 1e-7


def test_without_a_limiter_a_deep_relu_net_may_come_to_rest_nowhere() -> None:
    """What the limiter is for: a kink holds the linear wave between two slopes, at r ≠ 0."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU()).double() for _ in range(12)]
    for layer in layers:
        nn.init.normal_(layer.get_parameter("0.weight"), std=math.sqrt(2 / 16))
    net = regression(nn.Sequential(*layers), 16, batch=8)
    free = relaxed(net, ws.Wave(impedance=1.0, speed=0.8, limit=INF), 200, tol=1e-6)
    held = relaxed(net, ws.Wave(impedance=1.0, speed=0.8), 200, tol=1e-6)
    assert not free.outcome.converged
    assert held.outcome.converged
    assert held.ticks <= 6 * 12


@pytest.mark.parametrize("matching", [0.0, 0.3])
def test_just_below_the_courant_limit_nothing_blows_up_and_just_above_it_does(matching: float) -> None:
    """With little impedance at the output; with matching the limit is sufficient, not necessary."""
    net = network("linear", 4, width=3)
    net.module.double()
    free = ws.Wave(speed=100.0, impedance=0.02, matching=matching, limit=INF)
    shrunk = ws.calibrate(net.chain, net.x, net.target, free)
    assert isinstance(shrunk, ws.Wave)
    rest = ws.relax(net.chain, net.x, net.target).fields
    below = relaxed(net, replace(shrunk, speed=0.99 * shrunk.speed), 80, tol=0.0)
    assert below.outcome.status is ws.Status.BUDGET_SPENT
    assert all(float((x - r).norm()) < 60 for x, r in zip(below.states, rest.states, strict=True))
    slack = 1.15 if matching == 0 else 1.4
    above = relaxed(net, replace(shrunk, speed=slack * shrunk.speed), 200, tol=0.0)
    assert above.outcome.status is ws.Status.DIVERGED


def test_a_perfectly_matched_wave_has_no_other_limit_than_two() -> None:
    net = network("residual", 3)
    wave = ws.Wave(speed=1.3, matching=1.0, limit=INF)
    assert ws.calibrate(net.chain, net.x, net.target, wave) is wave
    assert distance(relaxed(net, wave, 400).gradients(), exact(net)) < 1e-8


@law(5)
@given(nets(max_depth=3), st.integers(0, 100), st.floats(0.1, 10.0))
def test_wave_variables_and_back(net: Net, seed: int, z: float) -> None:
    fields = random_fields(ws.relax(net.chain, net.x, net.target).fields, seed)
    impedances = [z * (site + 1) for site in range(len(fields.states))]
    again = ws.Fields.from_waves(*fields.waves(impedances), impedances)
    for ours, theirs in zip(again.states + again.costates, fields.states + fields.costates, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_a_tick_in_wave_variables_is_what_theory_says() -> None:
    """a ← a + ν(r − z g) + γ(r + z g), b ← b − ν(r + z g) + γ(r − z g), both read before either moves."""
    net, z = network("tanh", 4), (0.5, 2.0, 1.0, 3.0)
    net.module.double()
    fields = random_fields(ws.relax(net.chain, net.x, net.target).fields, 3)
    wave = ws.Wave(speed=0.6, impedance=z, matching=0.7, limit=INF, courant=ws.dynamics.Courant.TRUST, averaged=False)
    angle = 0.3 * math.pi / 2
    absorbing, crossing = 0.6 * math.cos(angle), 0.6 * math.sin(angle)
    r, g = residuals(net, fields)
    moved = ws.relax(
        net.chain, net.x, net.target, wave, schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=1), initial=fields
    ).fields.waves(z)
    for site, (a, b) in enumerate(zip(*fields.waves(z), strict=True)):
        up, down = r[site] - z[site] * g[site], r[site] + z[site] * g[site]
        torch.testing.assert_close(moved[0][site], a + crossing * up + absorbing * down)
        torch.testing.assert_close(moved[1][site], b - crossing * down + absorbing * up)


@pytest.mark.parametrize("kind", ["tanh", "residual"])
def test_the_junctions_scattering_is_the_residual_form(kind: str) -> None:
    """Junction l meets p = (a + b)/2 of the site below and q = (a − b)/2z of the site above it. What it emits,
    a_l ← a_{l-1} + S − G and b_{l-1} ← b_l − S − G, is the step of (11) by the residuals r_l and g_{l-1}."""
    net, z = network(kind, 5), (0.5, 2.0, 1.0, 3.0, 0.7)
    net.module.double()
    fields = random_fields(ws.relax(net.chain, net.x, net.target).fields, 4)
    r, g = residuals(net, fields)
    a, b = fields.waves(z)
    for site in range(1, 5):
        layer = net.chain.layers[site].module
        p = (a[site - 1] + b[site - 1]) / 2
        q = (a[site] - b[site]) / (2 * z[site])
        prediction, pulled = torch.autograd.functional.vjp(layer, p, q)
        wave, credit = prediction - p, z[site - 1] * pulled - z[site] * q
        torch.testing.assert_close(a[site - 1] + wave - credit, a[site] + r[site] - z[site - 1] * g[site - 1])
        torch.testing.assert_close(b[site] - wave - credit, b[site - 1] - r[site] - z[site - 1] * g[site - 1])


def residuals(net: Net, fields: ws.Fields) -> tuple[list[Tensor], list[Tensor]]:
    """r and g by autograd of single layers."""
    layers = [layer.module for layer in net.chain.layers]
    below = [net.x, *fields.states[:-1]]
    r = [layer(x) - own for layer, x, own in zip(layers, below, fields.states, strict=True)]
    g = []
    for site, costate in enumerate(fields.costates[:-1]):
        pulled = torch.autograd.functional.vjp(layers[site + 1], fields.states[site], fields.costates[site + 1])[1]
        g.append(pulled - costate)
    slope = torch.autograd.functional.vjp(lambda y: net.loss(y, net.target), fields.states[-1])[1]
    return [part.detach() for part in r], [*g, slope - fields.costates[-1]]


def test_matched_impedances_are_the_ratios_of_power_and_one_over_the_curvature() -> None:
    """Orthogonal layers times s: ‖J‖²_F/n = s², and k = 2/numel of a mean over the entries."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in range(3)]
    for layer, scale in zip(layers, (1.0, 1.5, 0.5), strict=True):
        nn.init.orthogonal_(layer.weight)
        layer.weight.data *= scale
    net = regression(nn.Sequential(*layers))
    with linearise(net.chain, net.x, net.target) as linearised:
        found = ws.dynamics.Matched().profile(linearised)
    top = net.x.numel() / 2
    assert found == pytest.approx((top / 1.5**2, top, top), rel=1e-9)


def test_a_matched_junction_knows_its_own_layer_alone() -> None:
    """Another gain in one layer changes the ratio of impedances across that layer, and across no other."""

    def ratios(louder: int | None) -> list[float]:
        torch.manual_seed(0)
        layers = [nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in range(5)]
        for number, layer in enumerate(layers):
            layer.weight.data *= 15.0 if number == louder else 5.0
        net = regression(nn.Sequential(*layers))
        with linearise(net.chain, net.x, net.target) as linearised:
            found = ws.dynamics.Matched().profile(linearised)
        return [below / above for below, above in pairwise(found)]

    plain = ratios(None)
    for louder in range(1, 5):
        found = ratios(louder)
        assert found.pop(louder - 1) == pytest.approx(plain[louder - 1] / 9)
        assert found == pytest.approx([ratio for number, ratio in enumerate(plain) if number != louder - 1], rel=1e-12)

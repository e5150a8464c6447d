"""Imperfect substrates: what noise, rounding, delay and mismatch do, on paper and in tensors."""

from collections.abc import Callable
from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Net, distance, exact, law, nets, tanh_net
from worldsheet.core.types import Field

on = ws.substrates


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PERFECT: dict[str, Callable[[ws.dynamics.Dynamics], ws.dynamics.Dynamics]] = {
    "noisy": lambda inner: on.Noisy(inner, 0.0, generator()),
    "quantised": lambda inner: on.Quantised(inner, None),
    "delayed": lambda inner: on.Delayed(inner, 0),
    "mismatched": lambda inner: on.Mismatched(inner, 0.0, generator()),
    "all": lambda inner: on.Noisy(
        on.Quantised(on.Delayed(on.Mismatched(inner, 0.0, generator()), 0), None), 0.0, generator()
    ),
}
INNER = [ws.Dyadic(), ws.Dyadic(0.6), ws.Wave(), ws.PredictiveCoding(0.1), ws.AugmentedLagrangian(0.1)]


@pytest.mark.parametrize("name", PERFECT)
@pytest.mark.parametrize("inner", INNER, ids=lambda dynamics: type(dynamics).__name__)
def test_a_perfect_substrate_leaves_every_bit_as_it_was(name: str, inner: ws.dynamics.Dynamics) -> None:
    net = tanh_net(4)
    stop = ws.Stop(max_ticks=8)
    bare, wrapped = (
        ws.relax(
            net.chain, net.x, net.target, dynamics, stop=stop, stack=False
        )  # stacks use other sums for the bare one
        for dynamics in (inner, PERFECT[name](inner))
    )
    assert wrapped.outcome == bare.outcome
    for ours, theirs in zip(wrapped.states + wrapped.costates, bare.states + bare.costates, strict=True):
        assert ours.equal(theirs)
    for key, gradient in bare.gradients().items():
        assert wrapped.gradients()[key].equal(gradient)


def wide_linear(outputs: int) -> Net:
    """One linear site with many outputs and a linear loss: ∇C is known, and each output is a sample."""
    module = nn.Linear(2, outputs, bias=False, dtype=DOUBLE)
    x = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.25, 1.0]], dtype=DOUBLE)
    target = 3 * torch.randn(3, outputs, dtype=DOUBLE, generator=generator(5))
    return Net(nn.Sequential(module), lambda output, wanted: (output * wanted).sum(), x, target)


@pytest.mark.parametrize("std", [0.1, 0.7])
def test_the_gradients_noise_has_the_variance_of_one_noisy_message(std: float) -> None:
    net = wide_linear(20000)  # (4): noise std·rms(∇C)·nᵀx, so std²·mean(∇C²)·Σx² in each column
    sol = ws.relax(net.chain, net.x, net.target, on.Noisy(ws.Dyadic(), std, generator(1)))
    noise = sol.gradients()["0.weight"] - exact(net)["0.weight"]
    wanted = std**2 * net.target.square().mean() * net.x.square().sum(0)
    assert torch.allclose(noise.square().mean(0), wanted, rtol=0.04)  # 20000 samples: a percent
    assert float(noise.mean().abs()) < 4 * float(wanted.mean() / 40000) ** 0.5


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.2])
def test_a_slow_rate_averages_noise(rate: float) -> None:
    """At rest λ ← λ + η(message − λ) carries η/(2 − η) of a message's noise power, less what (1 − η)^2T is of it."""
    net, std, ticks = wide_linear(20000), 0.3, 60
    dynamics = on.Noisy(ws.Dyadic(rate), std, generator(2))
    sol = ws.relax(net.chain, net.x, net.target, dynamics, schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=ticks))
    noise = sol.costates[0] - net.target
    power = std**2 * float(net.target.square().mean()) * rate / (2 - rate)
    assert float(noise.square().mean()) == pytest.approx(power, rel=0.03)


class Message(ws.extend.View):
    """A view of nothing but whether sites are stacked."""

    def __init__(self, stacked: bool) -> None:
        self.stacked = stacked

    def own(self, values: object) -> float | Tensor:
        return torch.ones(3, 1, 1) if self.stacked else 1.0

    def absorbed(self, point: Tensor, step: float) -> Tensor:
        return point / (1 + step)

    @property
    def state(self) -> Tensor:
        raise AssertionError

    costate = prediction = pulled = credit = state_residual = state

    @property
    def samples(self) -> int:
        raise AssertionError

    @property
    def at_output(self) -> bool:
        raise AssertionError


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("stacked", [False, True])
def test_rounding_errs_by_half_a_level_at_most_and_uses_them_all(bits: int, stacked: bool) -> None:
    message = torch.randn(3, 200, 40, dtype=DOUBLE, generator=generator()) * torch.tensor([1e-3, 1.0, 50.0]).view(
        3, 1, 1
    )
    top = message.abs().amax((1, 2), keepdim=True) if stacked else message.abs().amax()
    level = top / (2 ** (bits - 1) - 1)
    view = Message(stacked)
    nearest = on.Quantised(ws.Dyadic(), bits).arrived(message, view)
    assert bool(((nearest - message).abs() <= level / 2 * (1 + 1e-12)).all())
    assert len((nearest / level).round().unique()) == 2**bits - 1 or bits > 3  # rare in the tails
    torch.testing.assert_close(nearest / level, (nearest / level).round(), rtol=0, atol=1e-9)
    random = on.Quantised(ws.Dyadic(), bits, generator(3)).arrived(message, view)
    assert bool(((random - message).abs() < level * (1 + 1e-12)).all())
    bias = (random - message).mean((1, 2), keepdim=True)
    assert bool((bias.abs() < 5 * level / 8000**0.5).all())  # deviation of an entry below level/2
    if bits == 2 and stacked:
        assert (nearest == 0).double().mean() > 0.5 > (random == 0).double().mean() - 0.35


def test_a_silent_message_stays_silent() -> None:
    silence = torch.zeros(4, 3)
    assert on.Quantised(ws.Dyadic(), 2).arrived(silence, Message(False)).equal(silence)
    assert on.Noisy(ws.Dyadic(), 1.0, generator()).arrived(silence, Message(False)).equal(silence)


def test_noise_is_relative_to_each_site_of_a_stack() -> None:
    message = torch.ones(3, 100, 100) * torch.tensor([1e-4, 1.0, 1e4]).view(3, 1, 1)
    noise = on.Noisy(ws.Dyadic(), 0.2, generator()).arrived(message, Message(True)) - message
    torch.testing.assert_close(noise.std((1, 2)), torch.tensor([2e-5, 0.2, 2e3]), rtol=0.03, atol=0)


@law(10)
@given(nets(max_depth=4), st.integers(1, 3), st.integers(0, 2))
def test_a_delayed_dynamics_is_the_dynamics_under_a_late_schedule(net: Net, outer: int, inner: int) -> None:
    delayed = ws.relax(net.chain, net.x, net.target, on.Delayed(on.Delayed(ws.Dyadic(), inner), outer))
    late = ws.relax(
        net.chain, net.x, net.target, ws.Dyadic(), schedule=ws.schedules.Late(ws.Synchronous(), inner + outer)
    )
    assert delayed.ticks == late.ticks == 2 * len(net.chain) * (1 + inner + outer)
    for ours, theirs in zip(delayed.states + delayed.costates, late.states + late.costates, strict=True):
        assert ours.equal(theirs)


def test_a_mismatched_wave_has_impedances_that_are_off_and_the_speed_it_had() -> None:
    """One site, lossless: x' = x − νz m g, λ' = λ + ν/(z m) r is the wave of impedance z m."""
    module, x = nn.Linear(3, 3, bias=False, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE, generator=generator())
    chain = ws.Chain([module], lambda output, target: 0.5 * (output - target).square().sum())
    mismatched = on.Mismatched(ws.Wave(0.5, 2.0, matching=0.0, limit=inf, averaged=False), 0.3, generator(4))
    factor = torch.randn((), generator=generator(4), dtype=DOUBLE).mul(0.3).exp().item()
    wave = ws.Wave(0.5, 2.0 * factor, matching=0.0, limit=inf, averaged=False)
    stop = ws.Stop(max_ticks=7)
    ours, theirs = (ws.relax(chain, x, torch.zeros_like(x), d, stop=stop) for d in (mismatched, wave))
    torch.testing.assert_close(ours.costates[0], theirs.costates[0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.states[0], theirs.states[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("inner", [ws.Dyadic(), ws.Wave()], ids=["dyadic", "wave"])
def test_mismatch_moves_the_road_and_not_the_end(inner: ws.dynamics.Dynamics) -> None:
    net = tanh_net(4)
    dynamics = on.Mismatched(inner, 0.2, generator(1))
    sol = ws.relax(net.chain, net.x, net.target, dynamics, stop=ws.Stop(max_ticks=400, tol=1e-12))
    assert sol.outcome.converged
    assert distance(sol.gradients(), exact(net)) < 1e-9
    soon, bare = (
        ws.relax(net.chain, net.x, net.target, d, schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=6))
        for d in (dynamics, inner)
    )
    assert float((soon.states[0] - bare.states[0]).norm() / bare.states[0].norm()) > 1e-6


def test_the_errors_of_a_device_stay_from_one_relaxation_to_the_next() -> None:
    net, stop = tanh_net(5), ws.Stop(max_ticks=3)
    dynamics = on.Mismatched(ws.Dyadic(0.5), 0.5, generator())
    first, second = (ws.relax(net.chain, net.x, net.target, dynamics, stop=stop) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first.states, second.states, strict=True))
    third = ws.relax(net.chain, net.x, net.target, on.Mismatched(ws.Dyadic(0.5), 0.5, generator(1)), stop=stop)
    assert not third.states[0].equal(first.states[0])


@pytest.mark.parametrize("make", [lambda d: on.Quantised(d, 5), lambda d: on.Mismatched(d, 0.2, generator())])
@pytest.mark.parametrize("inner", [ws.PredictiveCoding(0.05), ws.AugmentedLagrangian(0.05)], ids=["pc", "pc-alm"])
def test_stacked_sites_live_on_the_same_substrate(
    make: Callable[[ws.dynamics.Dynamics], ws.dynamics.Dynamics], inner: ws.dynamics.Dynamics
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(5)], nn.Linear(4, 2)).to(DOUBLE)
    x, target = torch.randn(6, 4, dtype=DOUBLE), torch.randn(6, 2, dtype=DOUBLE)
    chain, stop = ws.Chain(module, nn.MSELoss()), ws.Stop(max_ticks=6)
    one, other = (ws.relax(chain, x, target, make(inner), stop=stop, stack=stack) for stack in (True, False))
    for ours, theirs in zip(one.states + one.costates, other.states + other.costates, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_generator_alone_decides_the_noise() -> None:
    net = tanh_net(3)

    def states(seed: int, dynamics: ws.dynamics.Dynamics) -> Tensor:
        spoilt = on.Noisy(on.Quantised(dynamics, 6), 0.1, generator(seed))
        return ws.relax(
            net.chain, net.x, net.target, spoilt, schedule=ws.Leapfrog(Field.STATE), stop=ws.Stop(max_ticks=5)
        ).states[-1]

    state = torch.get_rng_state()
    for dynamics in (ws.Wave(), ws.Dyadic()):
        assert states(0, dynamics).equal(states(0, dynamics))
        assert not states(0, dynamics).equal(states(1, dynamics))
    assert torch.get_rng_state().equal(state)

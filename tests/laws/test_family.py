"""Laws of the family: different dynamics, one pair of fields, one fixed point."""

import math

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def chain_of(depth: int, activation: type[nn.Module], gain: float = 1.0, seed: int = 0) -> ws.Chain:
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Linear(5, 5), activation()) for _ in range(depth)]
    for block in blocks:
        nn.init.normal_(block.get_parameter("0.weight"), std=gain / math.sqrt(5))
    return ws.Chain(nn.Sequential(*blocks).double(), half_squares)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, target = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    return x, target


def error(chain: ws.Chain, dynamics: ws.dynamics.Dynamics, ticks: int, tol: float = 1e-11) -> float:
    x, target = batch()
    sol = ws.relax(chain, x, target, dynamics, stop=ws.Stop(max_ticks=ticks, tol=tol, every=10))
    assert sol.outcome.converged, sol.outcome
    return ws.compare(chain, x, target, sol).relative_error


def test_a_perfectly_matched_wave_is_dyadic() -> None:
    chain, (x, target) = chain_of(6, nn.Tanh), batch()
    stop = ws.Stop(max_ticks=9)
    dyadic = ws.relax(chain, x, target, ws.Dyadic(0.7), schedule=ws.Leapfrog(), stop=stop)
    wave = ws.relax(chain, x, target, ws.Wave(speed=0.7, matching=1.0), schedule=ws.Leapfrog(), stop=stop)
    for ours, theirs in zip(wave.states + wave.costates, dyadic.states + dyadic.costates, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("depth", [3, 6])
def test_the_augmented_lagrangian_is_exact_at_rest_in_linear_nets(depth: int) -> None:
    assert error(chain_of(depth, nn.Identity), ws.AugmentedLagrangian(rate=0.2), ticks=20000) < 1e-8


def test_predictive_coding_rests_on_the_least_energy_of_a_linear_net() -> None:
    chain, (x, target) = chain_of(3, nn.Identity), batch()
    sol = ws.relax(chain, x, target, ws.PredictiveCoding(0.2), stop=ws.Stop(max_ticks=20000, tol=1e-12))
    one, two = (state.clone().requires_grad_() for state in sol.states[:2])
    layers = [layer.module for layer in chain.layers]
    errors = (one - layers[0](x)).square().sum(1) + (two - layers[1](one)).square().sum(1)
    energy = 0.5 * errors.mean() + half_squares(layers[2](two), target)
    for slope in torch.autograd.grad(energy, (one, two)):
        assert slope.abs().max() < 1e-11


def test_credit_diffuses_in_predictive_coding_and_travels_with_multipliers() -> None:
    """Ticks until the first layer has a fiftieth of its credit, at twice the depth."""

    def arrival(dynamics: ws.dynamics.Dynamics, depth: int) -> int:
        chain, (x, target) = _identity_chain(depth), batch()
        share = 0.02 * float(ws.relax(chain, x, target).costates[0].norm())

        def arrived(ticks: int) -> bool:
            sol = ws.relax(chain, x, target, dynamics, stop=ws.Stop(max_ticks=ticks))
            return float(sol.costates[0].norm()) > share

        low, high = 0, 1
        while not arrived(high):
            assert high < 2000, "no credit arrived"
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if arrived(middle) else (middle, high)
        return high

    diffusive = arrival(ws.PredictiveCoding(0.2), 12) / arrival(ws.PredictiveCoding(0.2), 6)
    ballistic = arrival(ws.AugmentedLagrangian(0.2), 12) / arrival(ws.AugmentedLagrangian(0.2), 6)
    assert 1.6 < ballistic < 2.6
    assert diffusive > 1.35 * ballistic


def _identity_chain(depth: int) -> ws.Chain:
    blocks = [nn.Linear(5, 5, bias=False) for _ in range(depth)]
    for block in blocks:
        nn.init.eye_(block.weight)
    return ws.Chain(nn.Sequential(*blocks).double(), half_squares)

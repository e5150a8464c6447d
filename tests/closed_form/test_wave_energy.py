"""Energy of waves in linear networks: a balance that closes to rounding, and reflections that vanish when matched."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE

FREE: dict[str, Any] = {"limit": math.inf, "courant": ws.dynamics.Courant.TRUST, "averaged": False}


def linear_chain(depth: int, curvature: float = 1.0, gains: tuple[float, ...] = ()) -> ws.Chain:
    """Orthogonal layers times gains, with the cost k|x − y|²/2."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 3, bias=False, dtype=DOUBLE) for _ in range(depth)]
    for layer, gain in zip(layers, gains or (1.0,) * depth, strict=True):
        nn.init.orthogonal_(layer.weight)
        layer.weight.data *= gain
    return ws.Chain(layers, lambda y, t: curvature / 2 * (y - t).square().sum())


def watched(chain: ws.Chain, wave: ws.Wave, ticks: int) -> ws.diagnostics.WaveReport:
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(2, 4, 3, dtype=DOUBLE, generator=generator)
    record = ws.Record(fields=True)
    ws.relax(chain, x, target, wave, stop=ws.Stop(max_ticks=ticks), record=record)
    rest = ws.relax(chain, x, target).fields
    return ws.diagnostics.wave_report(chain, x, target, wave, record, rest)


@pytest.mark.parametrize("matching", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("gains", [(1.0, 1.0, 1.0, 1.0), (1.3, 0.6, 1.1, 0.9)])
def test_energy_changes_by_what_is_absorbed(matching: float, gains: tuple[float, ...]) -> None:
    wave = ws.Wave(speed=0.5, impedance=(0.5, 2.0, 1.0, 0.7), matching=matching, **FREE)
    report = watched(linear_chain(4, gains=gains), wave, 40)
    total = report.energy.sum(1)
    balance = total[1:] - total[:-1] + report.at_output + report.absorbed.sum(1)
    assert float(balance.abs().max()) < 1e-12 * float(total.max())
    if matching == 0:
        assert float(report.absorbed.abs().max()) < 1e-12 * float(total.max())


def test_a_lossless_wave_without_a_cost_keeps_its_energy() -> None:
    wave = ws.Wave(speed=0.9, impedance=1.0, matching=0.0, **FREE)
    total = watched(linear_chain(6, curvature=0.0), wave, 200).energy.sum(1)
    assert float((total / total[0] - 1).abs().max()) < 1e-11


def test_energy_decays_where_the_impedances_make_direct_coupling_passive() -> None:
    gains = (1.3, 0.6, 1.7, 0.9, 1.2)
    chain, x = linear_chain(5, gains=gains), torch.ones(4, 3, dtype=DOUBLE)
    impedance = ws.dynamics.Matched(margin=1.5)
    wave = ws.calibrate(chain, x, x, ws.Wave(speed=0.5, impedance=impedance, matching=0.7, limit=math.inf))
    assert isinstance(wave, ws.Wave)
    total = watched(chain, wave, 60).energy.sum(1)
    assert bool((total[1:] < total[:-1]).all())
    assert float(total[-1]) < 1e-6 * float(total[0])


def test_a_junction_reflects_nothing_when_its_impedances_fit_and_the_output_when_z_is_one_over_k() -> None:
    gains, k = (1.0, 2.0, 0.5), 4.0
    fitting = (1 / (k * 0.25 * 4), 1 / (k * 0.25), 1 / k)  # z_l = z_{l-1}·s_l², z_L = 1/k
    matched = watched(linear_chain(3, k, gains), ws.Wave(impedance=fitting, **FREE), 10)
    assert float(matched.reflected.abs().max()) < 1e-25
    unfitting = watched(linear_chain(3, k, gains), ws.Wave(impedance=1.0, **FREE), 10)
    assert float(unfitting.reflected[0].min()) > 1e-3


@pytest.mark.parametrize("z", [0.1, 0.25, 2.0])
def test_the_output_reflects_by_one_minus_zk_over_one_plus_zk(z: float) -> None:
    """The state at the output is p = (a + b)/2 with b = ρ a, so that the reported power is |b|²/4z at x + zkx = a."""
    k, report = 4.0, watched(linear_chain(1, 4.0), ws.Wave(impedance=z, **FREE), 1)
    state = report_state(4.0)
    arriving = (1 + z * k) * state
    wanted = float((((1 - z * k) / (1 + z * k)) * arriving).square().sum()) / (4 * z)
    assert float(report.reflected[0, 0]) == pytest.approx(wanted, rel=1e-12)


def report_state(curvature: float) -> Tensor:
    """The deviation of a single linear layer's state at tick 0, where the state is zero."""
    chain = linear_chain(1, curvature)
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(2, 4, 3, dtype=DOUBLE, generator=generator)
    return -ws.relax(chain, x, target).states[0]  # rest is the forward pass


@pytest.mark.parametrize("speed", [0.5, 0.9])
def test_the_front_advances_c_layers_a_tick(speed: float) -> None:
    chain = linear_chain(24)
    wave = ws.Wave(speed=speed, impedance=1.0, matching=0.0, **FREE)
    front = watched(chain, wave, int(11 / speed)).state_front  # until it meets the costates' front, half way
    ticks = [int((front >= site).nonzero()[0]) for site in (3, 10)]
    assert 7 / (ticks[1] - ticks[0]) == pytest.approx(speed, rel=0.1)

"""Waves over a horizon: their energy never rises beyond the step's error, and the ends reflect what is on paper."""

import pytest
import torch

import worldsheet as ws
from plants import DOUBLE, double_integrator

C = ws.control


@pytest.mark.parametrize("impedance", [0.5, 1.0])
def test_the_energy_of_a_deviation_decays(impedance: float) -> None:
    problem = double_integrator(15)
    exact = C.solve(problem, tol=1e-12)
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(exact.states.shape, dtype=DOUBLE, generator=generator) for _ in range(2)]
    history = C.History(every=20)
    guess = C.Guess(exact.controls, exact.states + noise[0], exact.costates + noise[1])
    C.solve(problem, ws.Wave(impedance=impedance, speed=0.1), guess, 1e-14, 300, history)
    x, costate = (history.states - exact.states)[:, 1:], (history.costates - exact.costates)[:, 1:]
    energy = x.square().sum((1, 2)) / impedance + impedance * costate.square().sum((1, 2))
    assert float((energy[1:] / energy[:-1]).max()) < 1.01
    assert float(energy[-1]) < 0.5 * float(energy[0])


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
def test_the_end_reflects_by_its_mismatch(ratio: float) -> None:
    """(1 − zk)/(1 + zk) for φ = k x²/2 behind a medium that lets everything through."""
    steps, z, speed = 80, 2.0, 0.5
    problem = C.Problem(
        dynamics=lambda x, u, t: x + 1e-9 * u,
        running_cost=lambda x, u, t: 0.5 * u.square().sum(-1),
        terminal_cost=lambda x: 0.5 * ratio / z * x.square().sum(-1),
        initial_state=torch.zeros(1, dtype=DOUBLE),
        control_size=1,
        steps=steps,
        integrator=C.Discrete(),
    )
    place = torch.arange(steps + 1, dtype=DOUBLE)[:, None]
    pulse = (-(((place - steps / 2) / 7) ** 2)).exp()
    history = C.History(every=int(steps / speed))
    guess = C.Guess(states=pulse / 2, costates=pulse / 2 / z)
    C.solve(problem, ws.Wave(impedance=z, speed=speed), guess, 1e-14, int(steps / speed), history)
    after = (history.states[-1] - z * history.costates[-1])[1:].sum()
    assert float(after / pulse.sum()) == pytest.approx((1 - ratio) / (1 + ratio), abs=0.02)


def test_one_tick_reaches_one_stage() -> None:
    """Locality: what changes at stage k is felt by its neighbours after one tick, and no further."""
    problem = double_integrator(12)
    exact = C.solve(problem, tol=1e-13)
    states = exact.states.clone()
    states[6] += 1.0
    history = C.History()
    C.solve(
        problem, ws.Wave(impedance=1.0, speed=0.5), C.Guess(exact.controls, states, exact.costates), 1e-15, 2, history
    )
    moved = (history.states - exact.states).abs().amax(-1) + (history.costates - exact.costates).abs().amax(-1)
    for tick, reach in ((0, 0), (1, 1), (2, 2)):
        felt = (moved[tick] > 1e-9).nonzero().flatten()
        assert felt.min() >= 6 - reach - (tick > 0)
        assert felt.max() <= 6 + reach

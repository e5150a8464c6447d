"""Delays, slow sites and substrates that cannot be are refused where they are made."""

from collections.abc import Callable

import pytest
import torch

import worldsheet as ws
from nets import assert_tells, tanh_net

on = ws.substrates
RANDOM = torch.Generator()


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        pytest.param(
            lambda: ws.Asynchronous(RANDOM, ws.schedules.Delays(above=-1)),
            ["above=-1", "must not be negative"],
            id="future",
        ),
        pytest.param(
            lambda: ws.schedules.Late(ws.Synchronous(), -2), ["delay must not be negative, got -2"], id="early"
        ),
        pytest.param(
            lambda: ws.schedules.Late(ws.Wavefront(), 1), ["Wavefront()", "Sweep(count=None)"], id="late-once"
        ),
        pytest.param(lambda: ws.schedules.Slow(ws.Sweep(), {1}, 2), ["Sweep(count=1)", "many times"], id="slow-once"),
        pytest.param(
            lambda: ws.schedules.Slow(ws.Synchronous(), {1}, 0),
            ["Slow: every must be at least 1, got 0", "every=2"],
            id="never",
        ),
        pytest.param(
            lambda: ws.schedules.Slow(ws.Synchronous(), 1.5, 2, RANDOM),
            ["sites=1.5", "between 0 and 1"],
            id="share",
        ),
        pytest.param(
            lambda: ws.schedules.Slow(ws.Synchronous(), 0.5, 2),
            ["generator=None", "with a generator"],
            id="undrawn",
        ),
        pytest.param(
            lambda: on.Noisy(ws.Dyadic(), -0.1, RANDOM),
            ["Noisy: std must be finite and not negative, got -0.1"],
            id="noise",
        ),
        pytest.param(
            lambda: on.Noisy(ws.Dyadic(), float("nan"), RANDOM), ["Noisy: std must be", "got nan"], id="noise-nan"
        ),
        pytest.param(lambda: on.Quantised(ws.Dyadic(), 1), ["Quantised: bits must be at least 2, got 1"], id="one-bit"),
        pytest.param(lambda: on.Delayed(ws.Dyadic(), -1), ["Delayed: ticks must not be negative, got -1"], id="delay"),
        pytest.param(
            lambda: on.Mismatched(ws.Dyadic(), float("inf"), RANDOM),
            ["Mismatched: error must be finite", "got inf"],
            id="mismatch",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        make()
    assert_tells(refusal.value, *fragments)


def test_slow_sites_outside_the_chain_are_named() -> None:
    net = tanh_net(3)
    with pytest.raises(ws.errors.InputError, match=r"sites \[0, 7\] are not in the graph\n.*sites 1\.\.3"):
        ws.relax(net.chain, net.x, net.target, schedule=ws.schedules.Slow(ws.Synchronous(), {7, 2, 0}, 2))


@pytest.mark.parametrize("schedule", [ws.Wavefront(), ws.Sweep()])
def test_a_delayed_dynamics_is_refused_a_schedule_that_moves_once(schedule: ws.schedules.Schedule) -> None:
    net = tanh_net(3)
    with pytest.raises(ws.errors.InputError, match="with late messages"):
        ws.relax(net.chain, net.x, net.target, on.Delayed(ws.Dyadic(), 2), schedule=schedule)

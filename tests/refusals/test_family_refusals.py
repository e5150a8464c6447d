"""Constants that no dynamics of the family can have are refused, and a dynamics that blows up says so."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import assert_tells


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        pytest.param(lambda: ws.Wave(speed=0.0), ["Wave: speed must be a positive finite number, got 0.0"], id="still"),
        pytest.param(
            lambda: ws.Wave(impedance=-1.0),
            ["Wave: impedance must be a positive finite number, got -1.0"],
            id="impedance",
        ),
        pytest.param(
            lambda: ws.Wave(impedance=float("nan")), ["impedance must be a positive finite number, got nan"], id="nan"
        ),
        pytest.param(lambda: ws.Wave(matching=1.5), ["matching must be between 0 and 1, got 1.5"], id="matching"),
        pytest.param(
            lambda: ws.Wave(impedance=(1.0, 0.0)), ["Wave: impedance must be a positive", "got 0.0"], id="impedances"
        ),
        pytest.param(lambda: ws.Wave(matching=0.0), ["limit", "math.inf"], id="nothing to limit by"),
        pytest.param(lambda: ws.Wave(limit=1.0), ["limit=1.0", "[0, 1)"], id="limit"),
        pytest.param(lambda: ws.Wave(speed=1.8), ["speed must be below 1.68", "2/(1 + limit)", "got 1.8"], id="fast"),
        pytest.param(
            lambda: ws.dynamics.Matched(margin=0.0),
            ["Matched: margin must be a positive finite number, got 0.0"],
            id="margin",
        ),
        pytest.param(
            lambda: ws.PredictiveCoding(rate=-0.1),
            ["rate must be a positive", "got -0.1", "leave rate out"],
            id="pc-rate",
        ),
        pytest.param(
            lambda: ws.PredictiveCoding(precision=0.0),
            ["PredictiveCoding: precision must be", "got 0.0"],
            id="pc-precision",
        ),
        pytest.param(
            lambda: ws.AugmentedLagrangian(dual_rate=float("inf")),
            ["dual_rate must be a positive", "got inf"],
            id="alm-dual",
        ),
        pytest.param(
            lambda: ws.AugmentedLagrangian(penalty=-1.0),
            ["AugmentedLagrangian: penalty must be", "got -1.0"],
            id="alm-penalty",
        ),
        pytest.param(lambda: ws.AugmentedLagrangian(dual_rate=2.0), ["dual_rate=2.0", "below", "= 2"], id="alm-bound"),
        pytest.param(
            lambda: ws.PredictiveCoding(nudge=0.0),
            ["nudge must be finite and not zero, got 0.0", "leave nudge out"],
            id="pc-nudge",
        ),
        pytest.param(
            lambda: ws.PredictiveCoding(nudge=0.1, prediction=ws.dynamics.Prediction.FIXED),
            ["nudge has no effect with prediction=Prediction.FIXED, got 0.1", "proportional"],
            id="pc-fixed-nudge",
        ),
        pytest.param(
            lambda: ws.PredictiveCoding(2.0, prediction=ws.dynamics.Prediction.FIXED),
            ["rate must be below 2 with prediction=Prediction.FIXED, got 2.0"],
            id="pc-fixed-rate",
        ),
    ],
)
def test_constants_out_of_range_are_refused(make: Callable[[], ws.dynamics.Dynamics], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        make()
    assert_tells(refusal.value, *fragments)


_FAST = ws.Wave(speed=30.0, matching=0.2, limit=math.inf, courant=ws.dynamics.Courant.TRUST)


@pytest.mark.parametrize("dynamics", [ws.Wave(), ws.PredictiveCoding(), ws.AugmentedLagrangian()])
def test_a_dynamics_of_many_moves_is_refused_a_schedule_of_one(dynamics: ws.dynamics.Dynamics) -> None:
    chain, x = ws.Chain([nn.Linear(2, 2)], nn.MSELoss()), torch.randn(3, 2)
    with pytest.raises(ws.errors.InputError, match="does not settle in one move"):
        ws.relax(chain, x, x, dynamics, schedule=ws.Wavefront())


@pytest.mark.parametrize("dynamics", [_FAST, ws.PredictiveCoding(rate=30.0), ws.AugmentedLagrangian(rate=30.0)])
def test_a_step_beyond_the_stability_limit_is_an_outcome_and_leaves_no_gradient(dynamics: ws.dynamics.Dynamics) -> None:
    torch.manual_seed(0)
    chain = ws.Chain([nn.Linear(4, 4) for _ in range(5)], nn.MSELoss(reduction="sum"))
    x, target = torch.randn(2, 3, 4)
    sol = ws.relax(chain, x, target, dynamics, stop=ws.Stop(max_ticks=2000, tol=1e-6))
    assert sol.outcome.status is ws.Status.DIVERGED
    assert sol.ticks < 2000
    with pytest.raises(ws.errors.RelaxationError):
        ws.backward(chain, x, target, dynamics, stop=ws.Stop(max_ticks=2000, tol=1e-6))
    assert all(parameter.grad is None for parameter in chain.parameters())


def relaxed(dynamics: ws.dynamics.Dynamics, depth: int = 3, scale: float = 1.0) -> ws.Solution:
    torch.manual_seed(0)
    chain = ws.Chain([nn.Linear(4, 4) for _ in range(depth)], lambda y, t: scale * (y - t).square().mean())
    x, target = torch.randn(2, 3, 4)
    return ws.relax(chain, x, target, dynamics)


@pytest.mark.parametrize(
    ("dynamics", "fragments"),
    [
        (ws.Wave(impedance=ws.dynamics.Riccati()), ["Riccati", "control", "leave impedance out"]),
        (ws.Wave(impedance=(1.0, 2.0)), ["one number for each of 3 layers, got 2"]),
        (ws.Wave(impedance=(1.0, 2.0), limit=math.inf), ["one number for each of 3 layers, got 2"]),
        (
            ws.Wave(speed=3.0, limit=math.inf, courant=ws.dynamics.Courant.REFUSE),
            ["Courant limit", "got 3.0", "lower the speed"],
        ),
    ],
)
def test_a_wave_that_these_layers_cannot_carry_is_refused(dynamics: ws.dynamics.Dynamics, fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        relaxed(dynamics)
    assert_tells(refusal.value, *fragments)


def test_divergence_is_told_long_before_it_overflows_and_names_the_limit() -> None:
    just_beyond = ws.Wave(speed=2.2, limit=math.inf, courant=ws.dynamics.Courant.TRUST, impedance=1.0)
    outcome = relaxed(just_beyond).outcome
    assert outcome.status is ws.Status.DIVERGED
    assert outcome.ticks < 100
    assert "Courant limit" in outcome.remedy


@pytest.mark.parametrize("dynamics", [ws.PredictiveCoding(rate=0.65), ws.AugmentedLagrangian(rate=0.5)])
@pytest.mark.parametrize("stop", [ws.Stop(max_ticks=50), ws.Stop(max_ticks=2000, tol=1e-6)])
def test_a_step_a_little_too_long_is_found_out_before_anything_overflows(
    dynamics: ws.dynamics.Dynamics, stop: ws.Stop
) -> None:
    """The limits on a chain of identities are ½ and ⅓."""
    chain = ws.Chain([nn.Identity() for _ in range(6)], nn.MSELoss())
    x, target = torch.randn(2, 3, 4)
    sol = ws.relax(chain, x, target, dynamics, stop=stop)
    assert sol.outcome.status is ws.Status.DIVERGED
    assert "leave it out" in sol.outcome.remedy
    assert sol.ticks < 200
    assert all(bool(state.isfinite().all()) for state in sol.states)
    with pytest.raises(ws.errors.RelaxationError, match="run away"):
        sol.gradients()


@pytest.mark.parametrize(("depth", "width"), [(1, 4), (3, 0)])
def test_a_residual_mlp_has_two_layers_and_some_width(depth: int, width: int) -> None:
    with pytest.raises(ws.errors.InputError, match="depth must be at least 2"):
        ws.nn.residual_mlp(depth, width)


def test_a_rate_that_was_never_estimated_is_no_number() -> None:
    with pytest.raises(ws.errors.InputError, match=r"ws\.calibrate"):
        ws.PredictiveCoding().budget(5)

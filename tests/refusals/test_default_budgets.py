"""A relaxation for which nobody has said a budget ends in a time that training can afford, and says so."""

import warnings

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import tanh_net
from worldsheet.solve import NotConvergedWarning

PC = ws.PredictiveCoding


def deep(depth: int) -> tuple[ws.Chain, torch.Tensor, torch.Tensor]:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(depth - 1)]
    chain = ws.Chain(nn.Sequential(*layers, nn.Linear(4, 2)).double(), nn.MSELoss())
    return chain, torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("dynamics", "depth", "ticks"),
    [
        (PC(), 6, 20),
        (PC(), 15, 30),
        (PC(nudge=0.5), 6, 20),
        (ws.substrates.Mismatched(PC(0.2), 0.0, torch.Generator()), 6, 20),
        (ws.substrates.Delayed(PC(0.1), 1), 6, 40),
        (PC(prediction=ws.dynamics.Prediction.FIXED), 6, 6),
        (ws.AugmentedLagrangian(), 6, 12),
        (ws.Dyadic(), 6, 12),
    ],
    ids=["pc", "deep pc", "nudged", "substrate", "delayed", "fixed", "pc-alm", "dyadic"],
)
def test_ticks_by_default(dynamics: ws.dynamics.Dynamics, depth: int, ticks: int) -> None:
    assert ws.relax(*deep(depth), dynamics).ticks == pytest.approx(ticks, abs=1)


def test_a_tolerance_waits_for_rest_as_long_as_it_takes() -> None:
    net = deep(6)
    sol = ws.relax(*net, PC(), stop=ws.Stop(tol=1e-9))
    assert sol.outcome.converged
    assert sol.ticks > 60
    energy = ws.relax(*net, PC(), stop=ws.Stop(max_ticks=20 * sol.ticks))
    for one, other in zip(sol.costates, energy.costates, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-10)


def test_backward_warns_where_the_default_budget_leaves_much_to_do() -> None:
    chain, x, target = deep(12)
    with pytest.warns(NotConvergedWarning) as told:
        ws.backward(chain, x, target, PC())
    text = str(told[0].message)
    assert "budget spent after 24 ticks, residual" in text
    for advice in ("stop=Stop(max_ticks=...)", "stop=Stop(tol=...)", "one nn.Sequential"):
        assert advice in text
    same = ws.relax(chain, x, target, PC()).gradients()
    for name, parameter in chain.named_parameters():
        torch.testing.assert_close(parameter.grad, same[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("dynamics", "stop"),
    [
        (PC(), ws.Stop(max_ticks=20)),
        (PC(prediction=ws.dynamics.Prediction.FIXED), ws.Stop()),
        (ws.AugmentedLagrangian(), ws.Stop()),
        (ws.Dyadic(), ws.Stop()),
        (ws.Dyadic(0.5), ws.Stop()),
        (ws.Wave(), ws.Stop()),
    ],
    ids=["said", "fixed", "pc-alm", "dyadic", "slow", "wave"],
)
def test_nobody_is_warned_who_has_chosen_or_has_arrived(dynamics: ws.dynamics.Dynamics, stop: ws.Stop) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ws.backward(*deep(12), dynamics, stop=stop)


class Copying(ws.dynamics.Dynamics):
    """Takes up what it hears, and does not know that this is exact."""

    def state(self, view: ws.extend.View) -> torch.Tensor:
        return view.prediction

    def costate(self, view: ws.extend.View) -> torch.Tensor:
        return view.pulled

    def credit(self, view: ws.extend.View) -> torch.Tensor:
        return view.costate


def test_a_residual_of_zero_is_converged_also_where_only_a_budget_was_said() -> None:
    net = tanh_net(3)
    for ticks in (5, 6):
        sol = ws.relax(net.chain, net.x, net.target, Copying(), stop=ws.Stop(max_ticks=ticks), stack=False)
        assert (sol.outcome.residual == 0) == sol.outcome.converged == (sol.outcome.remedy == "") == (ticks == 6)
    assert str(sol.outcome) == "converged after 6 ticks, residual 0.0e+00"

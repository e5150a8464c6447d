"""A relaxation that falls short says so, says what to try, and hands out no gradients that diverged."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import (
    DOUBLE,
    Net,
    Order,
    assert_gradients,
    assert_tells,
    every_order,
    exact,
    grad,
    grads,
    regression,
    tanh_net,
)

SHORT = ws.Stop(max_ticks=3, tol=1e-9)


def exploding() -> Net:
    """Finite weights whose products are not."""
    net = regression(nn.Sequential(*(nn.Linear(4, 4, dtype=DOUBLE) for _ in range(3))))
    for parameter in net.chain.parameters():
        parameter.data.mul_(1e150)
    return net


def test_a_diverging_relaxation_is_an_outcome_and_has_no_gradients() -> None:
    net = exploding()
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.9))
    assert sol.outcome.status is ws.Status.DIVERGED
    assert not sol.outcome.converged
    assert "rate closer to 1" in sol.outcome.remedy
    assert str(sol.outcome).startswith(f"diverged after {sol.ticks} tick{'s' if sol.ticks > 1 else ''}, ")
    for use in (sol.gradients, sol.accumulate, lambda: ws.compare(net.chain, net.x, net.target, sol)):
        with pytest.raises(ws.errors.RelaxationError) as refusal:
            use()
        assert_tells(refusal.value, "diverged", "rate closer to 1")
    assert all(p.grad is None for p in net.chain.parameters())


@pytest.mark.parametrize("dynamics", [ws.Dyadic(), ws.Dyadic(0.9)], ids=str)
def test_backward_raises_on_divergence_and_leaves_grad(dynamics: ws.Dyadic) -> None:
    net = exploding()
    for parameter in net.chain.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(ws.errors.RelaxationError):
        ws.backward(net.chain, net.x, net.target, dynamics)
    assert all(grad(p).equal(torch.ones_like(p)) for p in net.chain.parameters())


@every_order
def test_an_exact_schedule_does_not_call_overflow_converged(order: Order) -> None:
    net = exploding()
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert not torch.isfinite(sol.loss)
    assert sol.outcome.status is ws.Status.DIVERGED


def test_a_tolerance_not_reached_warns_and_still_adds_gradients() -> None:
    net = tanh_net(3)
    with pytest.warns(ws.errors.NotConvergedWarning, match=r"budget spent after 3 ticks, residual .*raise max_ticks"):
        ws.backward(net.chain, net.x, net.target, ws.Dyadic(0.5), stop=SHORT)
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.5), stop=SHORT)
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
    found = grads(net.chain)
    assert_gradients(found, sol.gradients(), tol=0)


def test_the_warning_points_at_the_callers_line() -> None:
    # In an interpreter of its own: the shape checks of this one stand between the caller and the library.
    code = (
        "import warnings, torch, worldsheet as ws\n"
        "chain = ws.Chain([torch.nn.Linear(2, 2)], torch.nn.MSELoss())\n"
        "stop = ws.Stop(max_ticks=1, tol=1e-9)\n"
        "ws.backward(chain, torch.ones(1, 2), torch.ones(1, 2), ws.Dyadic(0.5), stop=stop)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("<string>:4: NotConvergedWarning: ")


def test_a_budget_without_a_tolerance_does_not_warn() -> None:
    net = tanh_net(3)
    ws.backward(net.chain, net.x, net.target, ws.Dyadic(0.5), stop=ws.Stop(max_ticks=3))
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.5), stop=ws.Stop(max_ticks=3))
    assert_gradients(grads(net.chain), sol.gradients(), tol=0)


@pytest.mark.parametrize("ticks", [0, 1, 5])
def test_a_spent_budget_says_how_many_ticks_are_needed(ticks: int) -> None:
    net = tanh_net(3)
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=ticks))
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
    assert sol.ticks == ticks
    assert "exact after 6 ticks" in sol.outcome.remedy
    needed = ws.relax(net.chain, net.x, net.target, schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=6))
    assert needed.outcome.converged


@pytest.mark.parametrize("ticks", [0, 2, 5])
def test_a_wavefront_stopped_early_is_an_outcome_too(ticks: int) -> None:
    net = tanh_net(3)
    stop = ws.Stop(max_ticks=ticks)
    sol = ws.relax(net.chain, net.x, net.target, stop=stop)
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
    assert "exact after 6 ticks" in sol.outcome.remedy
    exact = ws.relax(net.chain, net.x, net.target)
    for site, (found, end) in enumerate(zip(sol.states, exact.states, strict=True), start=1):
        assert found.equal(end if site <= ticks else torch.zeros_like(end))
    for site, (found, end) in enumerate(zip(sol.costates, exact.costates, strict=True), start=1):
        assert found.equal(end if site > 6 - ticks else torch.zeros_like(end))


@pytest.mark.parametrize("verb", ["relax", "backward"])
def test_a_tolerance_is_allowed_with_the_default_dynamics(verb: str) -> None:
    net = tanh_net(3)
    if verb == "relax":
        found = ws.relax(net.chain, net.x, net.target, stop=ws.Stop(tol=1e-6)).gradients()
    else:
        ws.backward(net.chain, net.x, net.target, stop=ws.Stop(tol=1e-6))
        found = grads(net.chain)
    assert_gradients(found, exact(net), tol=1e-5)


def test_a_tolerance_is_measured_every_so_many_ticks() -> None:
    net = tanh_net(3)
    fine = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.7), stop=ws.Stop(tol=1e-6))
    coarse = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.7), stop=ws.Stop(tol=1e-6, every=7))
    assert coarse.ticks == -(-fine.ticks // 7) * 7
    shorter = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.7), stop=ws.Stop(max_ticks=fine.ticks - 1))
    assert shorter.outcome.residual is not None
    assert fine.outcome.residual is not None
    assert shorter.outcome.residual > 1e-6 >= fine.outcome.residual


def test_an_outcome_reads_as_a_sentence() -> None:
    assert str(ws.Outcome(ws.Status.CONVERGED, 18)) == "converged after 18 ticks"
    short = ws.Outcome(ws.Status.BUDGET_SPENT, 3, 0.25, "raise max_ticks")
    assert str(short) == "budget spent after 3 ticks, residual 2.5e-01: raise max_ticks"
    assert [status for status in ws.Status if ws.Outcome(status, 1).converged] == [ws.Status.CONVERGED]


@pytest.mark.parametrize(
    "dynamics", [ws.Dyadic(), ws.Dyadic(0.7), ws.Wave(), ws.PredictiveCoding(), ws.AugmentedLagrangian()]
)
def test_no_ticks_at_all_leave_the_start_and_say_so(dynamics: ws.dynamics.Dynamics) -> None:
    net = tanh_net(4)
    sol = ws.relax(net.chain, net.x, net.target, dynamics, stop=ws.Stop(max_ticks=0))
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
    assert sol.ticks == 0
    assert "ticks" in sol.outcome.remedy
    settled = ws.relax(net.chain, net.x, net.target)
    at_rest = isinstance(dynamics, (ws.PredictiveCoding, ws.AugmentedLagrangian))
    for state, rest in zip(sol.states, settled.states, strict=True):
        torch.testing.assert_close(state, rest if at_rest else torch.zeros_like(rest))
    for costate in sol.costates[:-1]:
        assert not costate.any()

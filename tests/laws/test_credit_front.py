"""What lies ahead of the front of credit would not have moved."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import Net, law, nets, tanh_net
from worldsheet.schedules.front import awake

KINDS = [
    (ws.AugmentedLagrangian(rate=0.2), ws.extend.Field.COSTATE),
    (ws.PredictiveCoding(rate=0.2), ws.extend.Field.STATE),
]


@law(20)
@given(nets(max_depth=7), st.sampled_from(KINDS), st.integers(1, 14))
def test_skipping_changes_no_bit(net: Net, kind: tuple[ws.dynamics.Dynamics, ws.extend.Field], ticks: int) -> None:
    dynamics, first = kind
    one, other = (
        ws.relax(net.chain, net.x, net.target, dynamics, schedule=schedule, stop=ws.Stop(max_ticks=ticks), stack=False)
        for schedule in (ws.CreditFront(first), ws.Leapfrog(first))
    )
    for ours, theirs in zip(one.states + one.costates, other.states + other.costates, strict=True):
        assert torch.equal(ours, theirs)


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def test_a_quarter_of_the_work_is_saved_at_twice_the_depth() -> None:
    torch.manual_seed(0)
    chain = ws.Chain(ws.nn.residual_mlp(16, 6, inputs=5, classes=3).double(), half_squares)
    x, target = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    dynamics, stop = ws.AugmentedLagrangian(rate=0.22), ws.Stop(max_ticks=32)
    front, all_sites = (
        ws.relax(chain, x, target, dynamics, schedule=schedule, stop=stop)
        for schedule in (ws.CreditFront(), ws.Leapfrog(ws.extend.Field.COSTATE))
    )
    for name, gradient in front.gradients().items():
        torch.testing.assert_close(gradient, all_sites.gradients()[name], rtol=1e-10, atol=1e-14)
    assert 0.7 < front.pulls / all_sites.pulls < 0.82
    assert 0.7 < front.evaluations / all_sites.evaluations < 0.82


def test_a_descent_skips_unless_it_starts_elsewhere() -> None:
    net, dynamics = tanh_net(6), ws.AugmentedLagrangian(rate=0.2)
    fresh = ws.relax(net.chain, net.x, net.target, dynamics, stop=ws.Stop(max_ticks=3), stack=False)
    front = ws.relax(
        net.chain, net.x, net.target, dynamics, schedule=ws.CreditFront(), stop=ws.Stop(max_ticks=3), stack=False
    )
    assert fresh.pulls == front.pulls
    on = ws.Stop(max_ticks=2)
    resumed = ws.relax(net.chain, net.x, net.target, dynamics, stop=on, initial=fresh.fields, stack=False)
    steps = ws.Leapfrog(ws.extend.Field.COSTATE)
    full = ws.relax(net.chain, net.x, net.target, dynamics, schedule=steps, stop=ws.Stop(max_ticks=5), stack=False)
    for ours, theirs in zip(resumed.states + resumed.costates, full.states + full.costates, strict=True):
        assert torch.equal(ours, theirs)


def test_a_chain_wakes_from_its_output_one_site_a_tick() -> None:
    assert awake(ws.extend.Topology.chain(4)) == tuple(frozenset(range(first, 5)) for first in (3, 2, 1))
    table = ws.CreditFront().table(ws.extend.Topology.chain(3), 3)
    assert table == "   1  λ2 λ3 | x2 x3\n   2  λ1 λ2 λ3 | x1 x2 x3\n   3  λ1 λ2 λ3 | x1 x2 x3"


def test_a_skip_wakes_both_ends_and_what_reads_them() -> None:
    """Site 5 reads 1 and 4: site 1 moves at once, and wakes 2, which reads it, before credit has come down to it."""
    graph = ws.extend.Topology(((0,), (1,), (2,), (3,), (1, 4)))
    assert awake(graph) == (frozenset({1, 4, 5}), frozenset({1, 2, 3, 4, 5}))


def test_arrival_is_when_credit_has_crossed() -> None:
    """On a chain of identities at α = 1 and η = ¼ the front moves half a layer a tick."""
    chain = ws.Chain([nn.Identity() for _ in range(12)], half_squares)
    x, target = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    stop = ws.Stop(arrival=True, max_ticks=500)
    sol = ws.relax(chain, x, target, ws.AugmentedLagrangian(rate=0.25), stop=stop)
    assert sol.outcome.status is ws.Status.ARRIVED
    assert sol.ticks == pytest.approx(24, rel=0.1)
    alone = ws.relax(chain, x, target, ws.AugmentedLagrangian(rate=0.25), stop=stop, stack=False)
    assert alone.ticks == sol.ticks


def test_a_budget_may_come_before_the_arrival() -> None:
    net = tanh_net(8)
    sol = ws.relax(net.chain, net.x, net.target, ws.AugmentedLagrangian(), stop=ws.Stop(arrival=True, max_ticks=3))
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
    assert sol.ticks == 3

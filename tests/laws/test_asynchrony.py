"""Any order, late messages and slow sites: what stays exact, and what only stays where it was."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Net, asynchronous, distance, law, nets, tanh_net
from worldsheet.core.types import Field
from worldsheet.schedules import Delays

RESTLESS = [
    ws.Synchronous(),
    ws.Leapfrog(),
    ws.Leapfrog(Field.COSTATE),
    ws.Sweep(count=None),
]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def restless(draw: st.DrawFn) -> ws.schedules.Schedule:
    """A schedule that goes on, late and with slow sites, in either nesting."""
    seed = draw(st.integers(0, 2**20))
    kinds = st.integers(0, 3)
    bounds = Delays(draw(kinds), draw(kinds), draw(kinds))
    inner = draw(st.sampled_from([*RESTLESS, ws.Asynchronous(generator(seed), bounds)]))
    late, every, share = draw(st.integers(0, 3)), draw(st.integers(1, 4)), draw(st.sampled_from([0.0, 0.5, 1.0]))
    if draw(st.booleans()):
        return ws.schedules.Slow(ws.schedules.Late(inner, late), share, every, generator(seed))
    return ws.schedules.Late(ws.schedules.Slow(inner, share, every, generator(seed)), late)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """The parents of each site."""
    size = draw(st.integers(1, 8))
    lists = [st.lists(st.integers(0, site - 1), min_size=1, max_size=3) for site in range(1, size + 1)]
    return tuple(tuple(draw(above)) for above in lists)


@law(60)
@given(graphs(), restless())
def test_late_and_slow_schedules_of_any_graph_settle_within_their_promise(
    parents: tuple[tuple[int, ...], ...], order: ws.schedules.Schedule
) -> None:
    graph = ws.extend.Topology(parents)
    promise = order.settles_after(graph)
    assert promise is not None
    assert ws.schedules.simulate(order, graph).ticks <= promise


@law(12)
@given(nets(max_depth=5), restless())
def test_dyadic_ends_on_the_same_bits_under_any_order_delay_and_slowness(
    net: Net, order: ws.schedules.Schedule
) -> None:
    exact = ws.relax(net.chain, net.x, net.target).fields
    found = ws.relax(net.chain, net.x, net.target, schedule=order)
    assert found.outcome.converged
    for ours, theirs in zip(found.states + found.costates, exact.states + exact.costates, strict=True):
        assert ours.equal(theirs)


@pytest.mark.parametrize("inner", RESTLESS, ids=str)
@pytest.mark.parametrize("late", [1, 3])
def test_a_late_chain_settles_a_delay_per_hop_later_and_not_before(inner: ws.schedules.Schedule, late: int) -> None:
    depth = 4
    graph = ws.extend.Topology.chain(depth)
    fresh, delayed = ws.schedules.simulate(inner, graph), ws.schedules.simulate(ws.schedules.Late(inner, late), graph)
    hops = range(2 * depth)  # the first message, from the clamped input, is never old
    before, after = (settling.states + settling.costates[::-1] for settling in (fresh, delayed))
    assert after == tuple(tick + hop * late for tick, hop in zip(before, hops, strict=True))


@pytest.mark.parametrize("bounds", [Delays(2, 0, 1, 3), Delays(0, 3, 0, 0), 2])
def test_every_kind_of_message_is_as_late_as_its_bound_and_no_later(bounds: int | Delays) -> None:
    order = ws.Asynchronous(generator(0), bounds)
    wanted = bounds if isinstance(bounds, Delays) else Delays(bounds, bounds, bounds, 0)
    firings = [f for tick in islice(order.ticks(ws.extend.Topology.chain(5)), 60) for phase in tick for f in phase]
    for kind in ("below", "above", "point"):
        seen = {getattr(f.delays, kind) for f in firings}
        assert seen == set(range(getattr(wanted, kind) + 1))
    own = {(f.field, f.delays.own) for f in firings}
    assert own == {(Field.STATE, late) for late in range(wanted.own + 1)} | {(Field.COSTATE, 0)}


def test_slow_sites_hold_their_fields_between_their_ticks() -> None:
    net = tanh_net(4)
    order = ws.schedules.Slow(ws.Synchronous(), {2}, every=3)
    for ticks, still in ((1, True), (2, True), (3, False)):
        sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.5), schedule=order, stop=ws.Stop(max_ticks=ticks))
        assert (sol.states[1] == 0).all() == still
        assert (sol.states[0] != 0).any()


def test_a_share_of_slow_sites_is_drawn_anew_for_each_relaxation() -> None:
    order, chain = ws.schedules.Slow(ws.Synchronous(), 0.5, 2, generator(0)), ws.extend.Topology.chain(16)
    first, second = (order.table(chain, ticks=1) for _ in range(2))
    assert first != second
    assert len(ws.Synchronous().table(chain, ticks=1)) > len(first)


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def mild_net() -> Net:
    """Three contracting tanh layers: every dynamics has a fixed point within reach."""
    torch.manual_seed(3)
    layers = [nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(3)]
    for layer in layers:
        nn.init.normal_(layer.get_parameter("0.weight"), std=0.3)
    x, target = torch.randn(2, 4, 3, dtype=DOUBLE)
    return Net(nn.Sequential(*layers).to(DOUBLE), half_squares, x, target)


COUPLED = {
    "wave": (ws.Wave(speed=0.6, matching=0.8), 100),
    "predictive-coding": (ws.PredictiveCoding(0.3), 120),
    "pc-alm": (ws.AugmentedLagrangian(rate=0.3, dual_rate=0.5), 250),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("late", ["order", "delays", "slow"])
def test_coupled_fields_keep_their_fixed_point_in_any_order_on_old_messages(name: str, late: str) -> None:
    dynamics, ticks = COUPLED[name]
    net = mild_net()
    order: ws.schedules.Schedule = asynchronous(0, 0 if late == "order" else 1)
    if late == "slow":
        order = ws.schedules.Slow(ws.Leapfrog(), {2}, every=2)
    rest = ws.relax(net.chain, net.x, net.target, dynamics, stop=ws.Stop(max_ticks=ticks * 2))
    found = ws.relax(net.chain, net.x, net.target, dynamics, schedule=order, stop=ws.Stop(max_ticks=ticks))
    assert distance(found.gradients(), rest.gradients()) < 1e-4
    soon = ws.relax(net.chain, net.x, net.target, dynamics, schedule=order, stop=ws.Stop(max_ticks=4))
    assert distance(soon.gradients(), rest.gradients()) > 1e-3

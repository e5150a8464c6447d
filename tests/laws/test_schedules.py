"""Schedules are data: what `simulate` says without tensors is what tensors do, and what it refuses is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import worldsheet as ws
from nets import Net, asynchronous, law, random_fields, tanh_net
from worldsheet.core.types import Field
from worldsheet.schedules import Delays, Firing, Tick

X, COSTATE = Field.STATE, Field.COSTATE


Parents = tuple[tuple[int, ...], ...]


@st.composite
def graphs(draw: st.DrawFn) -> Parents:
    """The parents of up to ten sites of a random directed acyclic graph."""
    size = draw(st.integers(1, 10))
    lists = [st.lists(st.integers(0, site - 1), min_size=1, max_size=3) for site in range(1, size + 1)]
    return tuple(tuple(draw(above)) for above in lists)


def longest_paths(graph: ws.extend.Topology) -> tuple[dict[int, int], dict[int, int]]:
    """Ticks for the news to reach each site's state, and then its costate, when everybody moves at every tick."""
    up: dict[int, int] = {0: 0}
    down: dict[int, int] = {}
    for site in graph.sites:
        up[site] = 1 + max(up[parent] for parent in graph.parents_of(site))
    for site in reversed(graph.sites):
        readers = [child for child in graph.sites if site in graph.parents_of(child)]
        points = {site, *(parent for child in readers for parent in graph.parents_of(child))}
        down[site] = 1 + max([up[point] for point in points] + [down[child] for child in readers])
    return up, down


@law(100)
@given(graphs())
def test_synchronous_settles_along_longest_paths(parents: Parents) -> None:
    graph = ws.extend.Topology(parents)
    up, down = longest_paths(graph)
    settling = ws.schedules.simulate(ws.Synchronous(), graph)
    assert settling.states == tuple(up[site] for site in graph.sites)
    assert settling.costates == tuple(down[site] for site in graph.sites)
    assert settling.ticks <= 2 * graph.depth


@law(100)
@given(graphs())
def test_from_its_onset_a_site_moves_at_every_tick_and_no_sooner_than_the_front(parents: Parents) -> None:
    graph = ws.extend.Topology(parents)
    settling = ws.schedules.simulate(ws.schedules.Onset(), graph)
    ticks = [
        {(f.site, f.field) for (phase,) in [tick] for f in phase}
        for tick in islice(ws.schedules.Onset().ticks(graph), 30)
    ]
    for site in graph.sites:
        for field, first in ((X, settling.states[site - 1]), (COSTATE, settling.costates[site - 1])):
            assert [(site, field) in tick for tick in ticks] == [number >= first for number in range(1, 31)]


@law(100)
@given(graphs(), st.sampled_from([ws.Wavefront(), ws.Sweep()]))
def test_schedules_that_move_once_settle_every_site_of_any_graph(
    parents: Parents, schedule: ws.schedules.Schedule
) -> None:
    graph = ws.extend.Topology(parents)
    assert ws.schedules.simulate(schedule, graph).ticks <= (schedule.settles_after(graph) or 0)
    fired = [(f.site, f.field) for tick in schedule.ticks(graph) for phase in tick for f in phase]
    assert sorted(fired, key=str) == sorted([(site, field) for site in graph.sites for field in Field], key=str)
    assert all(f.last == (f.field is COSTATE) for tick in schedule.ticks(graph) for phase in tick for f in phase)


@law(100)
@given(graphs(), st.integers(0, 4), st.integers(0, 2**20))
def test_random_orders_settle_within_their_promise(parents: Parents, max_delay: int, seed: int) -> None:
    graph = ws.extend.Topology(parents)
    promise = 2 * graph.depth * (max_delay + 1)
    schedule = asynchronous(seed, max_delay)
    assert schedule.settles_after(graph) == promise
    assert ws.schedules.simulate(schedule, graph).ticks <= promise


def measured(net: Net, ticks: int, seed: int, max_delay: int) -> tuple[list[int], list[int]]:
    """For each field of each site, the tick after which it no longer differs from its final value."""
    full = ws.relax(net.chain, net.x, net.target).fields
    start = random_fields(full, seed)
    size = len(net.chain)
    differs = [0] * (2 * size)  # the last tick at which a field was not yet final
    for tick in range(1, ticks + 1):
        order, stop = asynchronous(seed, max_delay), ws.Stop(max_ticks=tick)
        now = ws.relax(net.chain, net.x, net.target, schedule=order, stop=stop, initial=start).fields
        for k, (a, b) in enumerate(zip(now.states + now.costates, full.states + full.costates, strict=True)):
            if not a.equal(b):
                differs[k] = tick
    return [tick + 1 for tick in differs[:size]], [tick + 1 for tick in differs[size:]]


@law(12)
@given(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2**20))
def test_simulated_settle_ticks_are_those_of_tensors(depth: int, max_delay: int, seed: int) -> None:
    net = tanh_net(depth, width=2, seed=seed % 100)
    settling = ws.schedules.simulate(asynchronous(seed, max_delay), net.chain.topology)
    states, costates = measured(net, 2 * depth * (max_delay + 1), seed, max_delay)
    assert settling == (tuple(states), tuple(costates))


@pytest.mark.parametrize("depth", [1, 2, 9, 64])
def test_a_chain_settles_up_and_down_again(depth: int) -> None:
    up = tuple(range(1, depth + 1))
    down = tuple(2 * depth + 1 - site for site in up)
    graph = ws.extend.Topology.chain(depth)
    for schedule in (ws.Synchronous(), ws.Wavefront()):
        assert ws.schedules.simulate(schedule, graph) == (up, down)
    assert ws.schedules.simulate(ws.Sweep(), graph) == ((1,) * depth, (1,) * depth)


@final
@dataclass(frozen=True)
class Written(ws.schedules.Schedule):
    """A schedule written out by hand."""

    script: Sequence[Tick]
    promise: int | None
    past: int = 0

    def ticks(self, topology: ws.extend.Topology) -> Iterator[Tick]:
        return iter(self.script)

    def settles_after(self, topology: ws.extend.Topology) -> int | None:
        return self.promise

    @property
    def once(self) -> bool:
        return False

    @property
    def memory(self) -> int:
        return self.past


UP, DOWN = (Firing(1, X),), (Firing(1, COSTATE),)


def test_the_right_order_written_by_hand_is_accepted() -> None:
    assert ws.schedules.simulate(Written([(UP, DOWN)], 1), ws.extend.Topology.chain(1)) == ((1,), (1,))
    assert ws.schedules.simulate(Written([(UP,), (DOWN,)], 2), ws.extend.Topology.chain(1)) == ((1,), (2,))


@pytest.mark.parametrize(
    ("script", "promise", "past", "text"),
    [
        pytest.param([(DOWN, UP)], 1, 0, r"has not settled λ of sites \[1\] after 1 ticks", id="turned-around"),
        pytest.param([((*UP, *DOWN),)], 1, 0, r"has not settled λ of sites \[1\]", id="at-once"),
        pytest.param([(DOWN,), (DOWN,)], 2, 0, r"has not settled x of sites \[1\]", id="never-moved"),
        pytest.param(
            [(UP,), (DOWN,)], 1, 0, r"has not settled λ of sites \[1\] after 1 ticks", id="promised-too-early"
        ),
        pytest.param(
            [((Firing(2, X),),)],
            1,
            0,
            r"fires x2, but the graph has no site 2 .*\n.*accepted: sites 1\.\.1",
            id="site-outside",
        ),
        pytest.param(
            [((Firing(0, X),),)],
            1,
            0,
            r"fires x0, but the graph has no site 0 .*\n.*accepted: sites 1\.\.1",
            id="input-moves",
        ),
        pytest.param(
            [((Firing(1, X, Delays(below=3)),),)], 1, 2, r"fires x1\[below-3\], .* memory of 2", id="older-than-memory"
        ),
        pytest.param(
            [(UP, (Firing(1, COSTATE, Delays(point=2)),))],
            1,
            1,
            r"fires λ1\[point-2\], .* memory of 1",
            id="old-point",
        ),
        pytest.param(
            [(UP, (Firing(1, COSTATE, last=True),), UP)], 1, 0, r"fires x1, which has been read for the", id="last-lies"
        ),
        pytest.param([(UP, DOWN)], None, 0, r"accepted: a schedule that settles", id="no-promise"),
    ],
)
def test_what_cannot_settle_is_refused(script: list[Tick], promise: int | None, past: int, text: str) -> None:
    with pytest.raises(ws.errors.InputError, match=text):
        ws.schedules.simulate(Written(script, promise, past), ws.extend.Topology.chain(1))


def test_a_last_reading_of_a_costate_that_moves_again_is_refused() -> None:
    up = ((Firing(1, X),), (Firing(2, X),))
    down = ((Firing(2, COSTATE),), (Firing(1, COSTATE, last=True),), (Firing(2, COSTATE),))
    with pytest.raises(ws.errors.InputError, match="fires λ2, which has been read for the last time"):
        ws.schedules.simulate(Written([(*up, *down)], 1), ws.extend.Topology.chain(2))


def test_an_old_message_unsettles_a_site() -> None:
    settled = ((Firing(1, X),), (Firing(2, X),))
    old = ((Firing(2, X, Delays(below=2)),),)
    with pytest.raises(ws.errors.InputError, match=r"has not settled x of sites \[2\]"):
        ws.schedules.simulate(Written([settled, old], 2, 2), ws.extend.Topology.chain(2))


def test_the_table_is_the_schedule_in_writing() -> None:
    chain = ws.extend.Topology.chain(2)
    assert ws.Wavefront().table(chain) == "   1  x1\n   2  x2\n   3  λ2!\n   4  λ1!"
    assert ws.Sweep().table(chain) == "   1  x1 | x2 | λ2! | λ1!"
    assert ws.Synchronous().table(chain, ticks=1) == "   1  x1 x2 λ1 λ2"
    table = asynchronous(0, 3).table(chain)
    assert len(table.splitlines()) == 16
    assert "[below-3" in table


def test_the_generator_alone_decides_an_asynchronous_order() -> None:
    chain = ws.extend.Topology.chain(5)
    assert asynchronous(7, 2).table(chain) == asynchronous(7, 2).table(chain)
    assert asynchronous(7, 2).table(chain) != asynchronous(8, 2).table(chain)
    state = torch.get_rng_state()
    asynchronous(7, 2).table(chain)
    assert torch.get_rng_state().equal(state)

"""Laws of the orders: every packet once, flights bounded, nobody waits for ever, and how busy stages are."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nets import law
from worldsheet.core.errors import InputError
from worldsheet.pipeline import ActionType, Locked, PipelineSchedule, Unlocked, timeline
from worldsheet.pipeline.packets import Supply
from worldsheet.pipeline.schedule import Waiting, of_packets

ORDERS = st.one_of(
    st.builds(Unlocked, st.integers(1, 5), st.integers(0, 3)), st.builds(Locked, packets_per_update=st.integers(1, 5))
)


@given(order=ORDERS, stages=st.integers(1, 6), packets=st.integers(1, 20))
@law(150)
def test_every_stage_carries_and_answers_each_packet_once(order: PipelineSchedule, stages: int, packets: int) -> None:
    for stage in range(stages):
        actions = list(order.actions(stage, stages, packets))
        assert [d.packet for d in actions if d.act is ActionType.FORWARD] == list(range(packets))
        assert [d.packet for d in actions if d.act is ActionType.PULL] == list(range(packets))
        flying = most = 0
        for action in actions:
            flying += {ActionType.FORWARD: 1, ActionType.PULL: -1, ActionType.UPDATE: 0}[action.act]
            most = max(most, flying)
            assert flying >= 0
        assert most <= order.warmup(stage, stages) + 1
        assert sum(action.act is ActionType.UPDATE for action in actions) == -(-packets // order.packets_per_update)


class Arriving(Supply):
    """Packets that come one by one, until there are no more."""

    def __init__(self) -> None:
        self.here, self.open = 0, True

    @property
    def is_open(self) -> bool:
        return self.open

    def has(self, packet: int) -> bool:
        return packet < self.here


@given(order=ORDERS, stages=st.integers(1, 6), packets=st.integers(1, 20))
@law(100)
def test_a_stream_that_comes_bit_by_bit_is_answered_in_the_order_of_one_that_is_here(
    order: PipelineSchedule, stages: int, packets: int
) -> None:
    for stage in range(stages):
        supply = Arriving()
        found, waited = [], 0
        for action in of_packets(order.endless(stage, stages), supply):
            if isinstance(action, Waiting):
                waited += 1
                supply.here, supply.open = supply.here + (supply.here < packets), supply.here < packets
            else:
                found.append(action)
        assert found == list(order.actions(stage, stages, packets))
        assert waited == packets + 1  # a packet is waited for when it is needed, and the end once


@given(order=ORDERS, stages=st.integers(1, 6), packets=st.integers(1, 20))
@law(100)
def test_no_stage_waits_for_ever(order: PipelineSchedule, stages: int, packets: int) -> None:
    spans = timeline(order, packets, [1.0] * stages, [1.0] * stages)
    assert len(spans) == sum(len(list(order.actions(stage, stages, packets))) for stage in range(stages))


def busy(order: PipelineSchedule, stages: int, packets: int, slowest: float = 1.0) -> float:
    costs = [1.0] * (stages - 1) + [slowest]
    spans = timeline(order, packets, costs, costs)
    return 2 * sum(costs) / stages * packets / max(span.end for span in spans)


@pytest.mark.parametrize(("stages", "many"), [(2, 2), (4, 4), (4, 8), (8, 8)])
def test_a_flush_idles_as_long_as_the_pipeline_is_deep(stages: int, many: int) -> None:
    assert busy(Locked(many), stages, 50 * many) == pytest.approx(many / (many + stages - 1), rel=1e-9)


@pytest.mark.parametrize("stages", [2, 4, 8, 16])
def test_unlocked_stages_idle_only_while_filling(stages: int) -> None:
    assert busy(Unlocked(1), stages, 1000) == pytest.approx(1000 / (1000 + stages - 1), rel=1e-9)


@given(
    forward=st.floats(0.1, 2.0),
    pull=st.floats(0.1, 2.0),
    efforts=st.floats(0.0, 2.0),
    travel=st.floats(0.0, 3.0),
    slack=st.integers(0, 2),
    stages=st.integers(2, 4),
)
@law(20)
def test_a_packet_takes_what_stages_need_of_each_other_around_the_circle(
    forward: float, pull: float, efforts: float, travel: float, slack: int, stages: int
) -> None:
    circle = 1 + (stages - 1) * (1 + slack)
    each = ([forward] * stages, [pull] * stages, [efforts] * stages)
    spans = timeline(Unlocked(1, slack), 40 * circle, *each, travel)
    ends = [span.end for span in spans if span.stage == 0 and span.action.act is ActionType.PULL]
    period = (ends[30 * circle] - ends[20 * circle]) / (10 * circle)
    around = (stages * (forward + pull) + efforts + 2 * (stages - 1) * travel) / circle
    assert period == pytest.approx(max(forward + pull + efforts, around), rel=1e-6)


def test_a_slow_stage_sets_the_pace_and_nothing_else() -> None:
    spans = timeline(Unlocked(1), 500, [1.0, 1.0, 2.0], [1.0, 1.0, 2.0])
    assert max(span.end for span in spans) == pytest.approx(4 * 500 + 4, abs=1e-9)


def test_a_table_is_the_order_in_writing() -> None:
    assert Unlocked(2).table(2, 3).splitlines() == ["  0  F0 F1 B0 F2 B1 U1 B2 U2", "  1  F0 B0 F1 B1 U1 F2 B2 U2"]


@pytest.mark.parametrize("make", [lambda: Unlocked(0), lambda: Unlocked(1, -1), lambda: Locked(0)])
def test_orders_that_cannot_be_meant_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()

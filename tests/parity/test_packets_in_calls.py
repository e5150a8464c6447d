"""A stream of packets in many calls against the same packets in one: the same bits, read as far ahead as needed."""

import copy
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import worldsheet as ws
from nets import assert_tells, law
from worldsheet.pipeline import (
    Current,
    DelayCompensated,
    Locked,
    Pipeline,
    PipelineSchedule,
    Predicted,
    Stashed,
    TrainingResult,
    Unlocked,
    Weights,
)
from worldsheet.pipeline.transport.base import queues

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline was drained")

WEIGHTS = [Current(), Stashed(), Predicted(), DelayCompensated()]
SCHEDULES = st.one_of(
    st.builds(Unlocked, st.integers(1, 4), st.integers(0, 2)), st.builds(Locked, packets_per_update=st.integers(1, 4))
)
Packet = tuple[Tensor, Tensor]


def net(dropout: float = 0.0) -> nn.Sequential:
    """Linear layers, so that weights that move meanwhile may be used without a copy."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Dropout(dropout)) for _ in range(5))).double()


def packets(count: int) -> list[Packet]:
    generator = torch.Generator().manual_seed(1)
    make = partial(torch.randn, generator=generator, dtype=torch.float64)
    return [(make(size, 4), make(size, 4)) for size in torch.randint(1, 4, (count,), generator=generator).tolist()]


def pipeline_of(
    model: nn.Module, stages: int, schedule: PipelineSchedule, weights: Weights, free_running: bool = False
) -> Pipeline:
    return Pipeline(
        ws.Chain(model, nn.MSELoss()),
        stages,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        schedule=schedule,
        weights=weights,
        free_running=free_running,
    )


def pieces(data: list[Packet], cuts: list[int]) -> Iterator[list[Packet]]:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for begin, end in zip([0, *ends], ends, strict=False):
        yield data[begin:end]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@given(
    schedule=SCHEDULES,
    stages=st.integers(1, 5),
    count=st.integers(1, 14),
    cuts=st.lists(st.integers(0, 14), max_size=6),
    drained=st.booleans(),
)
@law(40)
def test_calls_arrive_at_the_bits_of_one_call(
    weights: Weights, schedule: PipelineSchedule, stages: int, count: int, cuts: list[int], drained: bool
) -> None:
    whole, parts = net(), net()
    data = packets(count)
    expected = pipeline_of(whole, stages, schedule, weights).train(data)
    pipeline, losses = pipeline_of(parts, stages, schedule, weights), tuple[float, ...]()
    calls = [piece for piece in pieces(data, cuts) if piece]
    for number, piece in enumerate(calls):
        done = pipeline.train(iter(piece), drain=drained and number == len(calls) - 1)
        losses += done.losses
    done = pipeline.drain()
    assert losses + done.losses == expected.losses
    assert done.updates == expected.updates
    assert all(stage.in_flight == 0 and not stage.streaming for stage in pipeline.stages)
    assert_same(parts, whole)


@pytest.mark.parametrize("many", [1, 3])
def test_calls_of_whole_updates_draw_the_random_numbers_of_one_call(many: int) -> None:
    whole, parts = net(0.3), net(0.3)
    data = packets(12)
    torch.manual_seed(5)
    pipeline_of(whole, 4, Unlocked(many), DelayCompensated()).train(data)
    torch.manual_seed(5)
    pipeline = pipeline_of(parts, 4, Unlocked(many), DelayCompensated())
    for begin in range(0, 12, many):
        pipeline.train(data[begin : begin + many], drain=False)
    pipeline.drain()
    assert_same(parts, whole)


def test_a_loop_that_calls_once_a_batch_has_the_delay_that_stages_are_slowed_for() -> None:
    pipeline = pipeline_of(net(), 5, Unlocked(1), DelayCompensated())
    for packet in packets(12):
        pipeline.train([packet], drain=False)
    assert [stage.staleness for stage in pipeline.stages] == [4, 3, 2, 1, 0]
    assert [stage.in_flight for stage in pipeline.stages] == [4, 3, 2, 1, 0]
    assert pipeline.drain().updates == (12,) * 5
    assert pipeline.drain() == TrainingResult((), (12,) * 5)


class Normed(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(*(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()) for _ in range(4)))


@pytest.mark.parametrize("weights", WEIGHTS[1:], ids=str)
@pytest.mark.parametrize("with_graph", [False, True])
def test_evaluating_between_calls_disturbs_nothing(weights: Weights, with_graph: bool) -> None:
    whole, parts = Normed().double(), Normed().double()
    data = [(x.repeat(2, 1), target.repeat(2, 1)) for x, target in packets(11)]
    pipeline_of(nn.Sequential(*whole), 4, Unlocked(2), weights).train(data)
    pipeline = pipeline_of(nn.Sequential(*parts), 4, Unlocked(2), weights)
    seen = []
    for packet in data:
        pipeline.train([packet], drain=False)
        parts.eval()
        with torch.set_grad_enabled(with_graph):
            seen.append(parts(data[0][0]))
        frozen = copy.deepcopy(parts)
        assert torch.equal(frozen(data[0][0]), seen[-1])  # what is evaluated are the parameters as they are
        parts.train()
    pipeline.drain()
    assert_same(parts, whole)
    for mine, theirs in zip(parts.buffers(), whole.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def streams(data: list[Packet]) -> dict[str, Any]:
    x, target = (torch.stack(part) for part in zip(*data, strict=True))
    return {
        "list": data,
        "generator": ((x, target) for x, target in data),
        "loader": DataLoader(TensorDataset(x.flatten(0, 1), target.flatten(0, 1)), batch_size=3),
        "zip": zip(x, target, strict=True),
    }


@pytest.mark.parametrize("name", ["list", "generator", "loader", "zip"])
@pytest.mark.parametrize("free_running", [False, True])
def test_packets_come_from_any_iterable(name: str, free_running: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    make = partial(torch.randn, 3, 4, generator=generator, dtype=torch.float64)
    data = [(make(), make()) for _ in range(7)]
    one, other = net(), net()
    expected = pipeline_of(one, 3, Unlocked(2), Stashed()).train(data)
    done = pipeline_of(other, 3 if not free_running else 1, Unlocked(2), Stashed(), free_running).train(
        streams(data)[name]
    )
    assert len(done.losses) == 7
    if not free_running:
        assert done == expected
        assert_same(other, one)


@pytest.mark.parametrize(("stages", "many", "slack"), [(1, 1, 0), (4, 1, 0), (4, 3, 0), (3, 5, 2)])
def test_an_endless_stream_is_read_no_further_than_an_update_and_what_is_in_flight(
    stages: int, many: int, slack: int
) -> None:
    pipeline = pipeline_of(net(), stages, Unlocked(many, slack), Stashed())
    bound = many + (stages - 1) * (1 + slack)
    ahead = []

    class Enough(Exception):  # noqa: N818  it ends a stream that has no end
        pass

    def stream() -> Iterator[Packet]:
        for number, packet in enumerate(packets(60)):
            (passage,) = pipeline._passages.values() or (None,)
            if passage is not None:
                ahead.append((number - many * pipeline.stages[-1].updates, passage.packets.held))
            yield packet
        raise Enough

    with pytest.raises(Enough):
        pipeline.train(stream())
    assert max(read for read, _ in ahead) <= bound + many
    assert max(held for _, held in ahead) <= bound + 1
    assert pipeline.stages[-1].updates >= (60 - bound) // many - 1


def test_a_sequence_is_asked_only_for_what_stages_of_this_process_look_at() -> None:
    asked: dict[int, int] = {}

    class Counting(list[Packet]):
        def __getitem__(self, number: Any) -> Any:
            asked[number] = asked.get(number, 0) + 1
            return super().__getitem__(number)

    pipeline_of(net(), 3, Unlocked(2), Stashed()).train(Counting(packets(9)))
    assert asked == dict.fromkeys(range(9), 1)


@pytest.mark.parametrize(("stages", "many"), [(2, 1), (3, 2), (5, 3)])
def test_stages_that_run_by_themselves_stop_and_go_on_as_one_process_does(stages: int, many: int) -> None:
    one, other = net(), net()
    data = packets(13)
    alone, spread = (pipeline_of(model, stages, Unlocked(many), DelayCompensated()) for model in (one, other))
    edges = queues(stages)
    with ThreadPoolExecutor(stages) as threads:
        for begin, end in ((0, 1), (1, 6), (6, 7), (7, 13)):
            expected = alone.train(data[begin:end], drain=False)
            asked = [
                threads.submit(spread.run_stage, stage, edges[stage], iter(data[begin:end]), drain=False)
                for stage in range(stages)
            ]
            done = [each.result(60) for each in asked]
            assert done[-1].losses == expected.losses
            assert tuple(each.updates[0] for each in done) == expected.updates
        for each in [threads.submit(spread.run_stage, stage, edges[stage]) for stage in range(stages)]:
            each.result(60)
    alone.drain()
    assert_same(other, one)


def flying() -> Pipeline:
    pipeline = pipeline_of(net(), 3, Unlocked(2), Stashed())
    pipeline.train(packets(6), drain=False)
    return pipeline


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_is_in_flight_is_not_written_down(stage: int) -> None:
    pipeline = flying()
    for refused in (pipeline.stages[stage].state_dict, partial(pipeline.stages[stage].load_state_dict, {})):
        with pytest.raises(ws.errors.InputError) as caught:
            refused()
        assert_tells(caught.value, f"stage {stage} ", "in flight", "pipeline.drain()")
    pipeline.drain()
    assert pipeline.stages[stage].state_dict()


def test_a_pipeline_that_runs_freely_keeps_nothing_in_flight_between_calls() -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        pipeline_of(net(), 2, Unlocked(1), Stashed(), free_running=True).train(packets(3), drain=False)
    assert_tells(caught.value, "runs freely", "as a generator")


def test_packets_in_flight_stay_on_their_way() -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        flying().run_stage(0, queues(3)[0], packets(2))
    assert_tells(caught.value, "in flight", "pipeline.drain()")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "there are no packets"),
        (iter(()), "there are no packets"),
        (packets(1)[0], "packet 0 must be a pair (x, target), got a Tensor"),
        ([{"x": 1}], "packet 0 must be a pair (x, target), got a dict"),
        ([(1, 2, 3)], "packet 0 must be a pair (x, target), got a tuple of length 3"),
    ],
    ids=["none", "an empty iterator", "a batch", "a dict", "a triple"],
)
def test_what_is_no_packet_is_refused(given: Any, told: str) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        pipeline_of(net(), 3, Unlocked(2), Stashed()).train(given)
    assert_tells(caught.value, told)


class Fragile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 5:
            raise ValueError("broken")
        return x * 2


def test_a_call_that_failed_leaves_nothing_behind() -> None:
    fragile, sound = Fragile(), Fragile()
    broken, whole = nn.Sequential(*net(), fragile), nn.Sequential(*net(), sound)
    sound.calls = 5
    pipeline = pipeline_of(broken, 6, Unlocked(4), Stashed())
    with pytest.raises(ws.errors.LayerError):
        pipeline.train(packets(9))
    assert all(not stage.in_flight and not stage.streaming for stage in pipeline.stages)
    assert all(parameter.grad is None for parameter in broken.parameters())
    with torch.no_grad():
        for mine, theirs in zip(whole.parameters(), broken.parameters(), strict=True):
            mine.copy_(theirs)
    assert pipeline.stages[0].updates == 0
    pipeline.train(packets(7))
    assert fragile.calls > 5


def warned(pipeline: Pipeline, count: int, drain: bool = True) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pipeline.train(packets(count), drain=drain)
    return [str(each.message) for each in found if "was drained" in str(each.message)]


def test_a_pipeline_that_is_drained_before_anything_is_late_says_so_once() -> None:
    pipeline = pipeline_of(net(), 5, Unlocked(2), DelayCompensated())
    (told,) = warned(pipeline, 5)  # a lead of 4 packets and an update of 2
    assert "after 5 packets" in told
    assert "2 updates late" in told
    assert "drain=False" in told
    assert warned(pipeline, 5) == []


@pytest.mark.parametrize(
    ("weights", "schedule", "count", "drain"),
    [
        (DelayCompensated(), Unlocked(2), 6, True),
        (DelayCompensated(), Unlocked(2), 1, False),
        (DelayCompensated(), Locked(2), 1, True),
        (Stashed(), Unlocked(2), 1, True),
        (Current(), Unlocked(2), 1, True),
    ],
)
def test_nothing_is_said_where_nothing_is_wrong(
    weights: Weights, schedule: PipelineSchedule, count: int, drain: bool
) -> None:
    assert warned(pipeline_of(net(), 5, schedule, weights), count, drain) == []

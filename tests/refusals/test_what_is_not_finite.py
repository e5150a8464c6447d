"""A loss or an effort that is not finite: told with its stage and update, at the end of a call or soon."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells
from worldsheet.pipeline import Locked, Pipeline, Stashed, Unlocked
from worldsheet.pipeline.ledger import UPDATES_BETWEEN_LOOKS
from worldsheet.pipeline.transport.base import queues

BAD = 4
"""The packet at which something breaks."""


class Passing(nn.Module):
    """A layer that multiplies its output by NaN for one packet."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x) * (float("nan") if self.calls == BAD + 1 else 1.0)


class Overflow(torch.autograd.Function):
    """Its parameter's effort is infinite for one packet, and nothing else is."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        Overflow.calls += 1
        ctx.bad = Overflow.calls == BAD + 1
        return x.clone()

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> Any:
        return credit.clone(), torch.full((3,), float("inf") if ctx.bad else 0.0)


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        Overflow.calls = 0
        self.scale = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = Overflow.apply(x, self.scale)
        return found


def pipeline_of(second: nn.Module, many: int = 1) -> Pipeline:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), second, nn.Linear(4, 4), nn.Linear(4, 4))
    make = partial(torch.optim.Adam, lr=1e-3)
    return Pipeline(ws.Chain(model, nn.MSELoss()), 4, optimizer=make, weights=Stashed(), schedule=Unlocked(many))


def packets(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_loss_that_is_not_finite_is_told_with_its_packet_and_update(many: int, earlier: int) -> None:
    pipeline = pipeline_of(Passing(), many)
    begin = 0
    if earlier:
        pipeline.train(packets(earlier))
        begin = pipeline.stages[-1].updates
    with pytest.raises(ws.errors.RelaxationError) as caught:
        pipeline.train(packets(12))
    packet = BAD - earlier
    update = begin + packet // many + 1
    assert_tells(
        caught.value,
        f"the loss of packet {packet} is nan at update {update} of stage 3",
        "parameters that are not finite are in stage 0 ",
        f"before update {update}",
        "lower the learning rate",
    )


def test_an_effort_that_is_not_finite_is_told_with_its_stage_and_update() -> None:
    pipeline = pipeline_of(Overflowing())
    with pytest.raises(ws.errors.RelaxationError) as caught:
        pipeline.train(packets(BAD + 2))
    assert_tells(caught.value, "efforts of stage 1 ", f"are not finite at its update {BAD + 1}: they add up to inf")


def test_a_stream_that_never_ends_does_not_go_on_with_nan_for_ever() -> None:
    pipeline = pipeline_of(Passing())
    with pytest.raises(ws.errors.RelaxationError, match="packet 4 is nan"):
        pipeline.train(packets(10**6))
    assert pipeline.stages[0].updates <= UPDATES_BETWEEN_LOOKS


def test_what_was_in_flight_is_gone_and_the_next_call_begins_anew() -> None:
    pipeline = pipeline_of(Passing(), many=2)
    with pytest.raises(ws.errors.RelaxationError):
        pipeline.train(packets(7), drain=False)
    for stage in pipeline.stages:
        assert (stage.in_flight, stage.streaming) == (0, False)
        assert all(parameter.grad is None for parameter in stage.parameters)
        assert stage.take_efforts() == []


def test_a_process_tells_of_its_own_stage() -> None:
    pipeline, edges = pipeline_of(Overflowing()), queues(4)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(pipeline.run_stage, stage, edges[stage], packets(BAD + 5)) for stage in range(4)]
        failures = [each.exception(60) for each in asked]
    assert [isinstance(each, ws.errors.RelaxationError) for each in failures] == [False, True, False, False]
    assert f"at its update {BAD + 1}" in str(failures[1])


def test_a_packet_of_padding_has_no_loss_and_breaks_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5))
    make = partial(torch.optim.SGD, lr=0.1)
    pipeline = Pipeline(ws.Chain(model, nn.CrossEntropyLoss()), 2, optimizer=make, schedule=Locked(2))
    empty, full = torch.full((3,), -100), torch.tensor([0, 4, 1])
    done = pipeline.train([(x, full if n % 2 else empty) for n, (x, _) in enumerate(packets(4))])
    assert [isfinite(loss) for loss in done.losses] == [False, True, False, True]
    assert done.loss == pytest.approx((done.losses[1] + done.losses[3]) / 2)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())

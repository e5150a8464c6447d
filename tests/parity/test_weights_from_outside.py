"""Parameters that are changed after a pipeline was built: the next packet sees them, and nothing of what was before."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells
from worldsheet.pipeline import Current, DelayCompensated, Locked, Pipeline, Predicted, Stashed, Unlocked, Weights

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline was drained")

RULES = [Current(), Stashed(), Predicted(), DelayCompensated(), DelayCompensated(inner=Stashed())]
DOUBLE = torch.float64


class Scaled(nn.Module):
    """Without a closed form, so that torch's graph holds the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale).sin()


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), Scaled()) for _ in range(4))).double()


def packets(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    make = partial(torch.randn, 3, 4, generator=generator, dtype=DOUBLE)
    return [(make(), make()) for _ in range(count)]


def pipeline_of(model: nn.Module, weights: Weights, rate: float = 0.05) -> Pipeline:
    make = partial(torch.optim.SGD, lr=rate, momentum=0.9)
    return Pipeline(ws.Chain(model, nn.MSELoss()), 4, optimizer=make, weights=weights, schedule=Unlocked(1))


def loaded(model: nn.Module, other: nn.Module) -> None:
    model.load_state_dict(other.state_dict())


def written(model: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
            parameter.copy_(value)


def written_unnoticed(model: nn.Module, other: nn.Module) -> None:
    for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
        parameter.data.copy_(value.data)


def replaced(model: nn.Module, other: nn.Module) -> None:
    for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
        parameter.data = value.data.clone()


WAYS = [loaded, written, written_unnoticed, replaced]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", RULES, ids=str)
def test_a_pipeline_whose_weights_are_loaded_is_one_that_was_built_of_them(
    weights: Weights, way: Callable[[nn.Module, nn.Module], None]
) -> None:
    mine, twin = net(0), net(3)
    pipeline = pipeline_of(mine, weights)
    way(mine, twin)
    assert pipeline.train(packets(9)).losses == pipeline_of(twin, weights).train(packets(9)).losses
    assert_same(mine, twin)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", RULES, ids=str)
def test_a_course_that_was_broken_off_is_not_followed(
    weights: Weights, way: Callable[[nn.Module, nn.Module], None]
) -> None:
    """With the optimizers' memories as they are, which the other pipeline takes over."""
    mine, fresh = net(0), net(3)
    pipeline = pipeline_of(mine, weights)
    pipeline.train(packets(6))
    twin = copy.deepcopy(fresh)
    other = pipeline_of(twin, weights)
    for stage, source in zip(other.stages, pipeline.stages, strict=True):
        assert stage.optimizer is not None
        assert source.optimizer is not None
        for parameter, known in zip(stage.parameters, source.parameters, strict=True):
            stage.optimizer.state[parameter].update(copy.deepcopy(source.optimizer.state[known]))
    way(mine, fresh)
    pipeline.train(packets(9))
    other.train(packets(9))
    assert_same(mine, twin)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", RULES, ids=str)
def test_the_next_packet_sees_what_was_written_while_others_are_in_flight(
    weights: Weights, way: Callable[[nn.Module, nn.Module], None]
) -> None:
    """Packets in flight are answered all the same; without a rate nothing else moves the parameters."""
    mine, other = net(0), net(3)
    data = packets(12)
    pipeline = pipeline_of(mine, weights, rate=0.0)
    losses = pipeline.train(data[:6], drain=False).losses
    way(mine, other)
    losses += pipeline.train(data[6:], drain=True).losses
    for packet in (0, 1, 2, 10, 11):  # before, and when all that was in flight has passed the last stage
        output = (net(0) if packet < 6 else other)(data[packet][0])
        assert losses[packet] == pytest.approx(
            float(nn.functional.mse_loss(output, data[packet][1]).detach()), rel=1e-12
        )


@pytest.mark.parametrize("weights", [Stashed(), Predicted(), DelayCompensated()], ids=str)
def test_packets_in_flight_are_pulled_back_through_what_they_saw(weights: Weights) -> None:
    """The first stage's efforts of packets that passed before its weights were doubled are those of the old ones."""
    mine, old = net(0), net(0)
    efforts: list[Tensor] = []
    pipeline = pipeline_of(mine, weights, rate=0.0)
    first = pipeline.stages[0]
    data = packets(5)
    own = first.update

    def watched() -> None:
        efforts.append(first.parameters[0].grad.clone())  # type: ignore[union-attr]
        own()

    first.update = watched  # type: ignore[method-assign]
    pipeline.train(data[:4], drain=False)
    assert first.in_flight == 3
    with torch.no_grad():
        for parameter in first.parameters:
            parameter.mul_(2)
    efforts.clear()
    pipeline.drain()
    for (x, target), effort in zip(data[1:4], efforts, strict=True):
        old.zero_grad()
        nn.functional.mse_loss(old(x), target).backward()
        if weights != DelayCompensated():  # which leaves the mean of the inputs out
            torch.testing.assert_close(effort, next(old.parameters()).grad, rtol=1e-11, atol=1e-13)


def test_an_update_is_not_split_between_two_sets_of_weights() -> None:
    mine = net(0)
    make = partial(torch.optim.SGD, lr=0.05)
    pipeline = Pipeline(ws.Chain(mine, nn.MSELoss()), 4, optimizer=make, schedule=Locked(4))
    pipeline.train(packets(3), drain=False)
    written(mine, net(3))
    with pytest.raises(ws.errors.InputError) as caught:
        pipeline.train(packets(1))
    assert_tells(caught.value, "were changed while packets were in flight", "pipeline.drain()")


def test_weights_that_nobody_has_changed_keep_their_course() -> None:
    """What is compared between calls is compared bit by bit, so that calls alone change nothing."""
    one, other = net(), net()
    pipelines = [pipeline_of(model, Predicted()) for model in (one, other)]
    pipelines[0].train(packets(9))
    for packet in packets(9):
        pipelines[1].train([packet], drain=False)
    pipelines[1].drain()
    assert_same(one, other)


def test_an_embedding_that_shortens_its_rows_keeps_its_course() -> None:
    """A layer that writes into its own parameters is nobody from outside."""
    torch.manual_seed(0)
    embedding = nn.Embedding(5, 4, max_norm=0.5)
    model = nn.Sequential(embedding, nn.Linear(4, 4), nn.Linear(4, 4))
    make = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    pipeline = Pipeline(ws.Chain(model, nn.MSELoss()), 3, optimizer=make, weights=Predicted(), schedule=Unlocked(1))
    begun_anew: list[None] = []
    own = pipeline.stages[0]._forget_course
    pipeline.stages[0]._forget_course = lambda: begun_anew.append(own())  # type: ignore[method-assign]
    data = [(torch.tensor([i % 5, (i + 1) % 5]), torch.randn(2, 4)) for i in range(8)]
    pipeline.train(data)
    assert begun_anew == []

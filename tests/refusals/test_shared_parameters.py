"""Parameters that two stages would both move, each as if it were its own: refused by identity and by memory."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells
from worldsheet.pipeline import Locked, Pipeline


def built(*layers: nn.Module, loss: nn.Module | None = None, stages: int = 2) -> Pipeline:
    chain = ws.Chain(list(layers), nn.MSELoss() if loss is None else loss)
    return Pipeline(chain, stages, optimizer=partial(torch.optim.SGD, lr=0.1), schedule=Locked(1))


def test_a_parameter_of_two_stages_is_refused_with_both_names() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    with pytest.raises(ws.errors.InputError) as caught:
        built(first, nn.Linear(4, 4), last, stages=3)
    assert_tells(caught.value, "parameter '0.weight' of shape (4, 4) is in stage 2 and in stage 0", "untie", ".clone()")


@pytest.mark.parametrize(
    "view",
    [lambda w: w, lambda w: w.T, lambda w: w[1:3], lambda w: w[:, 1:2], lambda w: w.flatten()[5:6]],
    ids=["the same", "transposed", "rows", "a column", "one number"],
)
def test_other_parameters_over_the_same_memory_are_refused(view: object) -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = nn.Parameter(view(first.weight.detach()))  # type: ignore[operator]
    with pytest.raises(ws.errors.InputError) as caught:
        built(first, last)
    assert_tells(caught.value, "parameter '1.weight'", "in stage 0, where '0.weight' is the same memory")


def test_a_frozen_view_of_what_another_stage_moves_is_refused() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = nn.Parameter(first.weight.detach(), requires_grad=False)
    with pytest.raises(ws.errors.InputError, match="is the same memory"):
        built(first, last)


class Weighted(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) @ self.weight).square().mean()


def test_a_parameter_of_the_loss_belongs_to_the_last_stage() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    with pytest.raises(ws.errors.InputError, match="is in stage 1 and in stage 0"):
        built(first, last, loss=Weighted(first.weight))
    assert len(built(first, last, loss=Weighted(last.weight)).stages) > 1
    assert len(built(first, last, loss=Weighted(nn.Parameter(torch.ones(4)))).stages) > 1


def test_parts_of_one_flat_buffer_lie_apart() -> None:
    flat = torch.randn(2, 4, 4)
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    first.weight, last.weight = nn.Parameter(flat[0]), nn.Parameter(flat[1])
    built(first, last).train([(torch.randn(3, 4), torch.randn(3, 4))])


def test_what_one_stage_uses_twice_is_its_own() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    assert len(built(first, last, nn.Linear(4, 4), nn.Linear(4, 4)).stages) > 1


def test_parameters_without_memory_are_nobody_else_s() -> None:
    with torch.device("meta"):
        assert len(built(nn.Linear(4, 4), nn.Linear(4, 4)).stages) > 1
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    first.register_parameter("extra", nn.Parameter(torch.ones(0)))
    last.register_parameter("extra", nn.Parameter(torch.ones(0)))
    assert len(built(first, last).stages) > 1

"""Parameters that two stages would both move, each as if it were its own: refused by identity and by memory."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells
from worldsheet.pipeline import Locked, Pipeline, relax


def built(*layers: nn.Module, loss: nn.Module | None = None, stages: int = 2) -> Pipeline:
    chain = ws.Chain(list(layers), nn.MSELoss() if loss is None else loss)
    return Pipeline(chain, stages, optimizer=partial(torch.optim.SGD, lr=0.1), schedule=Locked(1))


def test_a_parameter_of_two_stages_of_a_relaxation_is_refused_with_both_stages() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    chain, x = ws.Chain([first, nn.Linear(4, 4), last], nn.MSELoss()), torch.randn(3, 4)
    with pytest.raises(ws.errors.InputError) as caught:
        relax(chain, 3, x, x, ws.Dyadic(rate=0.5), stop=ws.Stop(max_ticks=2))
    assert_tells(caught.value, "parameter '0.weight' of shape (4, 4) is in stages 0, 2", "untie", ".clone()")


def test_parameters_of_several_dtypes_are_not_tied_over_one_edge() -> None:
    first, last = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4).double()]), nn.ModuleList()
    last.extend(first)
    with pytest.raises(ws.errors.InputError, match=r"of torch.float32 and .* of torch.float64 are both used"):
        built(first, last)


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
    assert "0.weight: of stage 0, used in 1" in repr(built(first, last, loss=Weighted(first.weight)))
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

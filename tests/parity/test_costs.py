"""The closed forms of costs are autograd's: the same gradients, to the bit where torch's own kernels make them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from worldsheet.layers import Cost
from worldsheet.layers.losses import cost_of

LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "half squares": ws.nn.HalfSquares(),
    "squares, mean": nn.MSELoss(),
    "squares, sum": nn.MSELoss(reduction="sum"),
    "squares, function": F.mse_loss,
    "cross-entropy, mean": nn.CrossEntropyLoss(),
    "cross-entropy, sum": nn.CrossEntropyLoss(reduction="sum"),
    "cross-entropy, ignored": nn.CrossEntropyLoss(ignore_index=2),
    "cross-entropy, function": F.cross_entropy,
}


def data(name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    output = 3 * torch.randn(7, 4, generator=generator, dtype=dtype)
    if "cross" in name:
        return output, torch.randint(4, (7,), generator=generator)
    return output, torch.randn(7, 4, generator=generator, dtype=dtype)


def closed(loss: object) -> Cost:
    found = cost_of(loss)
    assert found is not None
    return found


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_slope_are_autograds(name: str) -> None:
    output, target = data(name)
    loss, cost = LOSSES[name], closed(LOSSES[name])
    assert cost.fits(output, target)
    leaf = output.clone().requires_grad_()
    value = loss(leaf, target)
    (slope,) = torch.autograd.grad(value, leaf)
    assert torch.equal(cost.value(output, target), value.detach())
    if name == "half squares":
        torch.testing.assert_close(cost.slope(output, target), slope, rtol=3e-7, atol=0)
    else:
        assert torch.equal(cost.slope(output, target), slope)


@pytest.mark.parametrize("unit", [1.0, 0.3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_bound_slope_follows_the_output_where_it_lies(name: str, unit: float) -> None:
    output, target = data(name)
    cost, place = closed(LOSSES[name]), torch.full_like(output, torch.nan)
    operations = cost.bound_slope(output, target, unit, place)
    for factor in (1.0, -0.5):
        output.mul_(factor)
        for operation in operations:
            operation()
        torch.testing.assert_close(place, cost.slope(output, target) / unit, rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("loss", "output", "target"),
    [
        (nn.MSELoss(), torch.ones(3, 2), torch.ones(2)),  # torch broadcasts, with a warning of its own
        (nn.MSELoss(), torch.ones(3, 2), torch.ones(3, 2).double()),
        (nn.MSELoss(), torch.ones(3, 2), torch.ones(3, 2, requires_grad=True)),
        (nn.CrossEntropyLoss(), torch.ones(3, 2), torch.full((3, 2), 0.5)),  # probabilities
        (nn.CrossEntropyLoss(), torch.ones(3, 2, 5), torch.zeros(3, 5).long()),
    ],
)
def test_a_closed_form_is_left_aside_where_it_does_not_hold(loss: nn.Module, output: Tensor, target: Tensor) -> None:
    assert not closed(loss).fits(output, target)


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(reduction="none"),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.ones(4)),
        nn.L1Loss(),
        lambda output, target: output.sum(),
    ],
)
def test_other_losses_have_no_closed_form(loss: object) -> None:
    assert cost_of(loss) is None


def test_a_loss_that_is_listened_to_is_called() -> None:
    calls: list[int] = []
    loss = nn.MSELoss()
    loss.register_forward_hook(lambda *_: calls.append(1))
    ws.backward(ws.Chain([nn.Linear(2, 2)], loss), torch.ones(1, 2), torch.ones(1, 2))
    assert calls


def test_an_impossible_class_is_told_as_the_loss_tells_it() -> None:
    chain = ws.Chain([nn.Linear(2, 3)], nn.CrossEntropyLoss())
    with pytest.raises(ws.errors.LayerError, match="an output with 3 classes, and 7 is none of them"):
        ws.backward(chain, torch.ones(1, 2), torch.tensor([7]))

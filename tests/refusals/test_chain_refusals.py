"""What a chain, its layers and its loss refuse: told with names, what is accepted and what to do."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import Order, assert_tells, every_order
from worldsheet_lab.errors import DataMissingError, RunFolderError

MSE = nn.MSELoss()


@pytest.mark.parametrize(
    ("module", "loss", "fragments"),
    [
        pytest.param([], MSE, ["the chain has no layers", "at least one layer"], id="empty-list"),
        pytest.param(nn.Sequential(), MSE, ["the chain has no layers", "at least one layer"], id="empty-sequential"),
    ],
)
def test_what_is_no_chain_is_refused_when_it_is_made(module: Any, loss: Any, fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.Chain(module, loss)
    assert_tells(refusal.value, *fragments)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


class Integers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("planted")


@every_order
@pytest.mark.parametrize("verb", ["relax", "backward"])
@pytest.mark.parametrize(
    ("layer", "fragments"),
    [
        pytest.param(Pair(), ["layer '1' (Pair) returned an object of type tuple, not a tensor", "wrap"], id="tuple"),
        pytest.param(Nothing(), ["layer '1' (Nothing) returned an object of type NoneType"], id="none"),
        pytest.param(Integers(), ["layer '1' (Integers) returned dtype torch.int64", "floating"], id="integers"),
        pytest.param(Raises(), ["layer '1' (Raises) (site 2) failed", "'0' (Linear)", "planted"], id="raises"),
        pytest.param(
            nn.Linear(5, 2),
            ["layer '1' (Linear) (site 2) reads 5 features", "got shape (3, 4) from '0' (Linear)", "nn.Linear(4, 2)"],
            id="shapes",
        ),
        pytest.param(
            nn.Linear(4, 2).double(),
            ["layer '1' (Linear)", "float64, got dtype float32 from '0' (Linear)", "model.double()"],
            id="dtypes",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_its_neighbour(
    layer: nn.Module, fragments: list[str], verb: str, order: Order
) -> None:
    first = nn.Linear(2, 4)
    chain = ws.Chain([first, layer, nn.Linear(2, 2)], MSE)
    with pytest.raises(ws.errors.LayerError) as refusal:
        getattr(ws, verb)(chain, torch.randn(3, 2), torch.randn(3, 2), schedule=order())
    assert_tells(refusal.value, *fragments)
    assert first.weight.grad is None


def test_the_first_layer_is_told_with_the_input() -> None:
    with pytest.raises(ws.errors.LayerError) as refusal:
        ws.backward(ws.Chain([nn.Linear(3, 2)], MSE), torch.randn(5, 4), torch.randn(5, 2))
    assert_tells(refusal.value, "layer '0' (Linear) (site 1) reads 3 features", "got shape (5, 4) from the input")


def detached(output: Tensor, target: Tensor) -> Tensor:
    return (output.detach() - target).square().mean()


def as_number(output: Tensor, target: Tensor) -> float:
    return float((output.detach() - target).square().mean())


INDICES, NUMBERS = torch.tensor([0, 1, 1]), torch.randn(3, 2)


@every_order
@pytest.mark.parametrize(
    ("loss", "target", "fragments"),
    [
        pytest.param(
            nn.MSELoss(reduction="none"),
            NUMBERS,
            ["loss MSELoss returned a tensor of shape (3, 2), not a scalar"],
            id="vector",
        ),
        pytest.param(detached, NUMBERS, ["loss detached returned a value that does not depend"], id="detached"),
        pytest.param(
            as_number, NUMBERS, ["loss as_number returned an object of type float, not a scalar"], id="number"
        ),
        pytest.param(
            nn.CrossEntropyLoss(),
            INDICES.int(),
            ["loss CrossEntropyLoss reads class indices, the target has dtype int32", "int64", "target.long()"],
            id="int32-classes",
        ),
        pytest.param(
            nn.CrossEntropyLoss(),
            INDICES[:2],
            ["loss CrossEntropyLoss has an output of shape (3, 2) and a target of shape (2,)", "very samples"],
            id="too-few-classes",
        ),
        pytest.param(
            nn.CrossEntropyLoss(),
            INDICES + 1,
            ["CrossEntropyLoss has an output with 2 classes, and 2 is none of them", "0 to 1"],
            id="no-such-class",
        ),
        pytest.param(
            nn.MSELoss(),
            None,
            ["loss MSELoss needs a tensor, the target has type None", "third argument"],
            id="no-target",
        ),
    ],
)
def test_a_loss_that_does_not_fit_is_told_with_what_it_was_given(
    loss: Any, target: Any, fragments: list[str], order: Order
) -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(ws.errors.LayerError) as refusal:
        ws.backward(ws.Chain([layer], loss), torch.randn(3, 4), target, schedule=order())
    assert_tells(refusal.value, *fragments)
    assert layer.weight.grad is None


@pytest.mark.parametrize(
    ("parents", "fragments"),
    [
        pytest.param((), ["the graph has no layers"], id="empty"),
        pytest.param(
            ((0,), (2,)), ["site 2 must read the input or sites before it, got parents (2,)", "0..1"], id="itself"
        ),
        pytest.param(((0,), (3,), (0,)), ["site 2 must read", "got parents (3,)"], id="later"),
        pytest.param(((0,), ()), ["site 2 must read", "got parents ()", "one or more parents"], id="orphan"),
        pytest.param(((-1,),), ["site 1 must read", "got parents (-1,)"], id="negative"),
    ],
)
def test_a_graph_out_of_order_is_refused(parents: tuple[tuple[int, ...], ...], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.extend.Topology(parents)
    assert_tells(refusal.value, *fragments)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ws.errors.InputError, ValueError),
        (ws.errors.LayerError, RuntimeError),
        (ws.errors.RelaxationError, ArithmeticError),
        (DataMissingError, FileNotFoundError),
        (RunFolderError, OSError),
    ],
)
def test_errors_survive_pickling_and_are_pythons_own_kinds(
    kind: type[ws.WorldsheetError], builtin: type[Exception]
) -> None:
    error = kind("rate is 2", "less than 2", "use 1")
    assert isinstance(error, builtin)
    assert isinstance(error, ws.WorldsheetError)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (twin.problem, twin.accepted, twin.remedy) == ("rate is 2", "less than 2", "use 1")
        assert_tells(twin, "rate is 2")

"""What cannot be traced is refused with where it happened and the way out."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells

MSE = nn.MSELoss()


class Deciding(nn.Module):
    """Looks at a value in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.line(x)
        return hidden if hidden.mean() > 0 else -hidden


class Numbering(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) * self.line(x).max().item()


class Remembering(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.line(x)
        return self.last


class Misfitting(Deciding):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x


class Sizes(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.line(x), x)


class Constant(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(3, 3)


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x.argmax(-1)


class Reading(nn.Module):
    """Reads both results of a module that returns numbers and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.mixed = nn.Linear(3, 3), Mixed()

    def forward(self, x: Tensor) -> Tensor:
        value, index = self.mixed(self.line(x))
        return value + index.unsqueeze(-1)


@pytest.mark.parametrize("verb", ["relax", "backward"])
@pytest.mark.parametrize(
    ("module", "kind", "fragments"),
    [
        (Deciding(), ws.InputError, ["Deciding, whose forward cannot be followed", "gt decides", "list the blocks"]),
        (Numbering(), ws.InputError, ["Numbering", "turned into a Python number", "submodule of its own"]),
        (Remembering(), ws.InputError, ["Remembering keeps something in itself"]),
        (Misfitting(), ws.LayerError, ["inner.1 failed on (4, 4)", "shapes", "must work first"]),
        (Sizes(), ws.LayerError, ["matmul failed on (4, 3), (4, 3)"]),
        (Constant(), ws.InputError, ["depends on no parameter"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_forward_that_cannot_be_followed(module: nn.Module, kind: Any, fragments: list[str], verb: str) -> None:
    before = {key: value.clone() for key, value in module.state_dict().items()}
    contents = set(vars(module))
    with pytest.raises(kind) as refusal:
        getattr(ws, verb)(ws.Chain(module, MSE), torch.randn(4, 3), torch.randn(4, 3))
    assert_tells(refusal.value, *fragments)
    assert set(vars(module)) == contents
    assert all(value.equal(before[key]) for key, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_one_state_of_two_dtypes_is_refused_with_the_way_out() -> None:
    module = Reading()
    x, target = torch.randn(4, 3), torch.randn(4, 3)
    with pytest.raises(ws.InputError) as refusal:
        ws.backward(ws.Chain(module, MSE, blocks=Mixed), x, target)
    assert_tells(refusal.value, "mixed, which returns tensors of dtypes torch.float32, torch.int64", "blocks=")
    ws.backward(ws.Chain(module, MSE), x, target)  # opened, it is no obstacle


def test_a_chain_that_is_not_traced_yet_says_so() -> None:
    chain = ws.Chain(Misfitting(), MSE)
    assert "to be traced" in repr(chain)
    assert next(name for name, _ in chain.named_parameters()) == "line.weight"
    with pytest.raises(ws.InputError) as refusal:
        len(chain)
    assert_tells(refusal.value, "traced when it is first given an input", "at(x)")


def test_hooks_and_compilation_of_the_whole_are_refused() -> None:
    hooked = Sizes()
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ws.InputError, match="with hooks as a whole"):
        ws.Chain(hooked, MSE)
    with pytest.raises(ws.InputError, match="compiled as a whole"):
        ws.Chain(torch.compile(Sizes(), backend="eager"), MSE)


def test_an_input_without_tensors_is_refused() -> None:
    with pytest.raises(ws.InputError, match="input of type tuple"):
        ws.backward(ws.Chain(Deciding(), MSE), (1, 2), torch.randn(4, 3))


def test_an_operation_that_fails_later_is_named_with_its_site() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling() and x.sum() > 0:
                raise ValueError("planted")
            return x

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.picky = nn.Linear(3, 3), Picky()

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.picky(torch.exp(self.line(x))))

    torch.manual_seed(1)
    chain = ws.Chain(Outer(), MSE)
    try:
        chain.at(torch.randn(4, 3))
    except ws.LayerError as error:
        assert_tells(error, "picky failed", "planted")
        return
    with pytest.raises(ws.LayerError) as refusal:
        ws.backward(chain, torch.randn(4, 3), torch.randn(4, 3))
    assert_tells(refusal.value, "site 1", "picky: planted")


@pytest.mark.parametrize(
    "dynamics", [ws.PredictiveCoding(rate=0.2), ws.AugmentedLagrangian(rate=0.2, dual_rate=1.0)], ids=["pc", "alm"]
)
def test_an_open_output_that_is_read_inside_is_refused(dynamics: ws.Dynamics) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            low = torch.tanh(self.one(x))
            return low, self.two(low)

    def loss(outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return MSE(outputs[0], target) + MSE(outputs[1], target)

    with pytest.raises(ws.InputError, match="an output is read inside too"):
        ws.relax(ws.Chain(Both(), loss), torch.randn(4, 3), torch.randn(4, 3), dynamics)

"""Networks of spiking neurons: custom derivatives, states that are handed on or kept on modules, hooks on weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

pytest.importorskip("snntorch")
pytest.importorskip("norse.torch")

import norse.torch as norse
import snntorch
import torch
from snntorch import utils
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, random_fields
from zoo.answers import Problem, assert_backprop, assert_same, autograd, everywhere, relaxed, square

TICKS = 6

any_sites = pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])


class Leaky(nn.Module):
    """Membranes are handed on from tick to tick."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        self.hidden = snntorch.Leaky(beta=0.9, learn_beta=True)
        self.last = snntorch.Leaky(beta=0.8, learn_threshold=True, reset_mechanism="zero")

    def forward(self, x: Tensor) -> Tensor:
        hidden, last = self.hidden.init_leaky(), self.last.init_leaky()
        total = torch.zeros(len(x), 3)
        for _ in range(TICKS):
            spikes, hidden = self.hidden(self.into(x), hidden)
            _, last = self.last(self.out(spikes), last)
            total = total + last
        return total


class Kept(nn.Module):
    """Membranes are kept by their modules."""

    def __init__(self) -> None:
        super().__init__()
        hidden, last = (
            snntorch.Leaky(beta=0.9, init_hidden=True),
            snntorch.Leaky(beta=0.8, init_hidden=True, output=True),
        )
        self.net = nn.Sequential(nn.Linear(4, 8), hidden, nn.Linear(8, 3), last)

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self.net)
        return torch.stack([self.net(x)[1] for _ in range(TICKS)]).sum(0)


class Cells(nn.Module):
    """Cells of norse, whose state is a tuple with names."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.into, self.cell, self.out = nn.Linear(4, 8), cell, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state, total = None, torch.zeros(len(x), 3, dtype=x.dtype)
        for _ in range(TICKS):
            spikes, state = self.cell(self.into(20 * x), state)
            total = total + self.out(spikes)
        return total


SNN: dict[str, Callable[[], nn.Module]] = {"handed-on": Leaky, "kept": Kept}

NORSE: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Cells(norse.LIFCell()),
    "recurrent": lambda: Cells(norse.LIFRecurrentCell(8, 8)),  # with a hook on its weights' gradient
}


def leaky(name: str) -> Problem:
    """In float32, which snntorch's spikes have whatever they are made from."""
    return Problem(SNN[name](), 3 * torch.randn(6, 4), torch.randn(6, 3), square)


def cells(name: str) -> Problem:
    x, target = torch.randn(6, 4, dtype=DOUBLE), torch.randn(6, 3, dtype=DOUBLE)
    return Problem(NORSE[name]().to(DOUBLE), x, target, square)


@any_sites
@pytest.mark.parametrize("name", SNN)
def test_leaky_neurons_learn_as_under_autograd(name: str, blocks: Any) -> None:
    assert_backprop(partial(leaky, name), 1e-5, blocks)


@any_sites
@pytest.mark.parametrize("name", NORSE)
def test_cells_learn_as_under_autograd(name: str, blocks: Any) -> None:
    assert_backprop(partial(cells, name), blocks=blocks)


@pytest.mark.parametrize("name", NORSE)
def test_random_fields_of_cells_become_those_of_backprop(name: str) -> None:
    make = partial(cells, name)
    like, _ = relaxed(make)
    _, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert_same(ours, autograd(make), 1e-9)


@pytest.mark.parametrize("name", SNN)
def test_random_fields_of_leaky_neurons_become_those_of_backprop(name: str) -> None:
    make = partial(leaky, name)
    like, _ = relaxed(make)
    _, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert_same(ours, autograd(make), 1e-5)

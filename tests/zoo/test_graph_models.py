"""Networks on graphs, of `torch_geometric`, whose convolutions pass messages by gathering and scattering."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

pytest.importorskip("torch_geometric.nn")

import torch
import torch_geometric.nn as geometric
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from nets import DOUBLE, random_fields
from zoo.answers import Problem, assert_backprop, assert_same, autograd, everywhere, relaxed, square

modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


class Mixed(nn.Module):
    """One convolution of each kind."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.first = geometric.GCNConv(4, 8)
        self.second = geometric.GATConv(8, 8, heads=2, dropout=0.5)
        self.third = geometric.GINConv(inner, train_eps=True)
        self.last = geometric.GCNConv(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = F.dropout(torch.relu(self.first(x, edges)), 0.5, self.training)
        return self.last(torch.relu(self.third(self.second(h, edges), edges)), edges)


def ready(name: str) -> nn.Module:
    """A model that the package itself offers."""
    return getattr(geometric, name)(4, 16, num_layers=2, out_channels=3, dropout=0.3, norm="batch", jk="cat")


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mixed": Mixed,
    **{name.lower(): partial(ready, name) for name in ("GCN", "GAT", "GIN")},
}


def problem(name: str, train: bool) -> Problem:
    model = MODELS[name]().to(DOUBLE).train(train)
    x, target = torch.randn(10, 4, dtype=DOUBLE), torch.randn(10, 3, dtype=DOUBLE)
    return Problem(model, (x.requires_grad_(), torch.randint(0, 10, (2, 30))), target, square)


@modes
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])
def test_a_network_on_a_graph_learns_as_under_autograd(name: str, train: bool, blocks: Any) -> None:
    assert_backprop(partial(problem, name, train), blocks=blocks)


@pytest.mark.parametrize("name", MODELS)
def test_random_fields_on_a_graph_become_those_of_backprop(name: str) -> None:
    make = partial(problem, name, True)
    like, _ = relaxed(make)
    _, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert_same(ours, autograd(make), 1e-9)

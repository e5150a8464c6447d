"""A dynamics is three methods: where it starts, when it rests and how long it may take have defaults that serve."""

from dataclasses import dataclass
from typing import final

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from benchmarks.architectures import ResNet


@final
@dataclass(frozen=True)
class SlowCredit(ws.dynamics.Dynamics):
    """x ← f(x below), λ ← λ + η g."""

    rate: float

    def state(self, view: ws.extend.View) -> Tensor:
        return view.prediction

    def costate(self, view: ws.extend.View) -> Tensor:
        return view.costate + self.rate * view.costate_residual

    def credit(self, view: ws.extend.View) -> Tensor:
        return view.costate


def mlp() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(5)], nn.Linear(6, 3))


@pytest.mark.parametrize("rate", [0.3, 0.9])
@pytest.mark.parametrize("schedule", [None, ws.Synchronous(), ws.Sweep(count=None), ws.Leapfrog()], ids=str)
@pytest.mark.parametrize("kind", ["path", "graph"])
def test_it_rests_on_backprops_gradient(kind: str, schedule: ws.schedules.Schedule | None, rate: float) -> None:
    torch.manual_seed(0)
    module = (mlp() if kind == "path" else ResNet(3, 4, (1, 1)).eval()).double()
    x = torch.randn(5, 6) if kind == "path" else torch.randn(2, 3, 8, 8)
    chain, target = ws.Chain(module, nn.CrossEntropyLoss()), torch.randint(3, (len(x),))
    sol = ws.relax(chain, x.double(), target, SlowCredit(rate), schedule=schedule)
    assert sol.outcome.converged
    assert ws.compare(chain, x.double(), target, sol).relative_error < 1e-8


def test_a_budget_of_its_own_is_a_few_dozen_round_trips() -> None:
    assert SlowCredit(0.5).budget(10) == 2000
    assert SlowCredit(0.5).tolerance(1e-3) == 0.02

"""Batches that follow each other without a rest: when a layer's state and costate are of one batch (K)."""

from typing import Any

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import DOUBLE, autograd


class Seen:
    """Before each step of a port: the efforts of every layer's weight at this tick."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        self.layers = layers
        self.ticks: list[list[torch.Tensor | None]] = []

    def __call__(self, port: torch.optim.Optimizer, *_: Any) -> None:
        grads = [layer.weight.grad for layer in self.layers]
        self.ticks.append([None if grad is None else grad.clone() for grad in grads])


@pytest.mark.parametrize(("depth", "held"), [(1, 3), (2, 4), (3, 3), (3, 6), (3, 7), (3, 9), (4, 9)])
def test_an_effort_is_backprops_in_the_window_of_a_layer_and_at_no_other_tick(depth: int, held: int) -> None:
    torch.manual_seed(depth)
    layers = [nn.Linear(3, 3).to(DOUBLE) for _ in range(depth)]
    model = nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in layers))
    chain, batches = ws.Chain(model, nn.MSELoss()), torch.randn(6, 2, 4, 3, dtype=DOUBLE)
    wanted = [autograd(model, nn.MSELoss(), x, y) for x, y in batches]
    port, seen = torch.optim.SGD(model.parameters(), lr=0.0), Seen(layers)
    port.register_step_pre_hook(seen)
    fields = None
    for tick in range(held * len(batches)):
        x, target = batches[tick // held, 0], batches[max(tick - depth, 0) // held, 1]  # the target comes L ticks later
        end = ws.unlocked(chain, x, target, port, ticks=1, schedule=ws.Synchronous(), initial=fields)
        fields = end.fields
    for tick in range(4 * depth + held, len(seen.ticks)):
        for site, effort in enumerate(seen.ticks[tick], start=1):
            batch, late = divmod(tick - site + 1, held)
            exact = wanted[batch][f"{site - 1}.0.weight"]
            error = float((effort - exact).norm() / exact.norm()) if effort is not None else 1.0
            in_window = late >= 2 * (depth - site) + 2
            assert (error < 1e-12) == in_window, f"tick {tick}, layer {site}, {late} ticks after its state: {error:.1e}"

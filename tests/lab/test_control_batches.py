"""Of a batch of starts none is left behind, and each is solved as it is by itself."""

import pytest
import torch

import worldsheet as ws
from worldsheet_lab.control.problems import KNOWN

NAMES = ("pendulum", "cartpole", "bangbang", "vanderpol", "rocket", "quadrotor", "obstacle")


@pytest.mark.parametrize("name", NAMES)
def test_no_start_of_a_batch_is_left_behind(name: str) -> None:
    known = KNOWN[name]
    batch = known.batch(24, torch.Generator().manual_seed(1))
    together = ws.control.solve(batch)
    assert together.converged.all(), together.outcome
    slowest = int(together.ticks.argmax())
    for one in {0, slowest}:
        alone = ws.control.solve(known.build(batch.initial_state[one]))
        assert alone.outcome.converged, alone.outcome
        assert float(together.cost[one]) == pytest.approx(float(alone.cost), rel=1e-8, abs=1e-10)

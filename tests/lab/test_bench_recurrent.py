"""`python -m benchmarks recurrent` measures what it says: every method, in turns, the same numbers."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import recurrent
from benchmarks.command import bench

CPU = torch.device("cpu")


@pytest.mark.parametrize("layer", recurrent.LAYERS)
def test_every_method_gives_the_modules_outputs_and_gradients(layer: str) -> None:
    row = recurrent.measured(recurrent.Case(layer, 60, 5, 2), 1, CPU, 0)
    assert {recurrent.MODULE, recurrent.EAGER, recurrent.CHOSEN, "scan", "diagonal scan"} <= set(row["seconds"])
    assert set(row["error"]) == set(row["seconds"])
    assert max(row["error"].values()) < 1e-5
    assert row["ratio"][recurrent.MODULE]["median"] == 1


def test_the_command_prints_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "QUICK", (recurrent.Case("gru", 40, 4, 1),))
    done = CliRunner().invoke(bench, ["recurrent", "--quick", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["cases"]
    assert row["steps"] == 40
    assert "gru 4, 40 steps, batch 1" in CliRunner().invoke(bench, ["recurrent", "--quick"]).stdout
    refused = CliRunner().invoke(bench, ["recurrent", "--rounds", "0"])
    assert refused.exit_code == 2
    assert "must be at least 1" in refused.stderr

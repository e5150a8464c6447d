"""`python -m benchmarks stream` measures what it says: equal networks, all methods, memory that stays."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import stream
from benchmarks.command import bench
from benchmarks.unrolled import Unrolled
from worldsheet.streaming import Dense, Sparse

CPU = torch.device("cpu")


def test_every_method_is_timed_and_memory_does_not_grow_with_steps() -> None:
    row = stream.measured(stream.Case(20, 0, 2), 1, CPU, 0)
    assert list(row["seconds"]) == ["forward dynamics", "real time", "edges every 4", "BPTT 1", "BPTT 16", "BPTT 64"]
    assert row["ratio"]["forward dynamics"]["median"] == 1
    assert row["edges"] == 20 * 19
    few, many = row["peak_bytes"]
    assert many < 1.2 * few  # in 40 steps and in 10


def test_the_unrolled_network_is_the_same_over_edges_and_over_a_matrix() -> None:
    dense = Dense(6)
    sparse = Sparse(6, dense.sources, dense.targets)
    values = torch.randn(dense.edges, generator=torch.Generator().manual_seed(0))
    ends = []
    for graph in (dense, sparse):
        twin = Unrolled(graph, graph.on_edges(values), 5, 2, 1, 2)
        for _ in range(3):
            twin.run(torch.ones(2, 1), torch.full((2, 2), 0.4))
        ends.append(twin._state)
    assert torch.allclose(ends[0], ends[1], atol=1e-6)


def test_the_command_prints_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "QUICK", (stream.Case(20, 4, 1),))
    done = CliRunner().invoke(bench, ["stream", "--quick", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["cases"]
    assert row["edges"] == 80
    table = CliRunner().invoke(bench, ["stream", "--quick"])
    assert "20 × 4 edges, 1 stream" in table.stdout
    refused = CliRunner().invoke(bench, ["stream", "--rounds", "0"])
    assert refused.exit_code == 2
    assert "--rounds and --threads must be at least 1, got 0" in refused.stderr

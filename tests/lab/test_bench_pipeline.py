"""`python -m benchmarks pipeline`: all contenders train the same network, and what is said of them is so."""

from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.command import bench
from benchmarks.pipeline_asleep import Length as LatencyRun
from benchmarks.pipeline_asleep import StageLatency, nights, slept
from benchmarks.pipeline_cases import CASES, instance
from benchmarks.pipeline_contenders import ONE, RANKS, UNLOCKED
from benchmarks.pipeline_processes import in_processes
from benchmarks.pipeline_tables import tables
from benchmarks.pipeline_turns import Length, measured
from contest_of_stages import PIECES, SMALL, UPDATES, WIDTH, train


def sorted_values(parts: list[Tensor]) -> Tensor:
    """Of all parameters, whichever stage holds them."""
    return torch.cat([part.flatten() for part in parts]).sort().values


def test_contenders_without_delay_arrive_at_the_same_weights(tmp_path: Path) -> None:
    in_processes(train, (tmp_path,), RANKS)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    start = sorted_values([p.detach() for p in instance(SMALL, 0).chain.parameters()])
    one = sorted_values(both[0][ONE])
    assert float((one - start).abs().max()) > 0.5 * UPDATES * 1e-4  # Adam's step is its rate at first
    for name, first in both[0].items():
        copies = name.startswith("DDP")
        found = sorted_values(first if copies else [*first, *both[1][name]])
        torch.testing.assert_close(found, one, rtol=0, atol=3e-6, msg=partial("{}: {}".format, name))


def test_a_contest_tells_rates_refusals_and_bytes() -> None:
    case = measured(SMALL, Length(1, 2, 2, (1, PIECES)), 0)
    refused = {(row["name"], row["pieces"]) for row in case["tried"] if row["rate"] is None}
    assert refused == {("torch 1F1B", 1), ("torch DualPipeV", 1)}
    rated = {row["name"]: row for row in case["rated"]}
    assert rated[ONE]["over_one"] == [1.0, 1.0, 1.0]
    assert max(row["over_torch"][1] for name, row in rated.items() if name.startswith("torch")) >= 1.0
    for row in case["posts"]:
        number = 2 if row["dtype"] == "bfloat16" else 4
        assert row["bytes_per_sample"] == WIDTH * number + 128 * row["messages"] / SMALL.batch
        assert row["messages"] == rated[row["name"]]["pieces"]
    console = Console(width=160, record=True)
    for table in tables([case], []):
        console.print(table)
    shown = console.export_text()
    assert all(text in shown for text in (*UNLOCKED, "refused", "bytes/sample"))


def test_sleeping_stages_cannot_be_busier_than_their_order() -> None:
    rows = slept(2, LatencyRun(0.004, 24, 2))
    assert len(rows) == 12
    for row in rows:
        flush = row["pieces"]
        assert row["whole"] <= row["packets"] / (row["packets"] + 1) or flush
        if row["night"] == "even" and flush:
            assert row["paper"] == pytest.approx(flush / (flush + row["stages"] - 1))
            assert row["whole"] <= row["paper"]
    by_order = {row["order"]: row["whole"] for row in rows if row["night"] == "even"}
    assert len(by_order) == 4


def test_one_stage_is_slower_and_sleeps_are_drawn() -> None:
    even, slow, jitter = nights(4, 0.01)
    assert [nap.up for nap in even.naps] == [0.01] * 4
    assert [nap.up for nap in slow.naps] == [0.01, 0.01, 0.02, 0.01]
    assert jitter.naps == (StageLatency(0.01, 0.2),) * 4


def test_the_cases_are_those_of_the_issue() -> None:
    sizes = {name: sum(p.numel() for p in instance(case, 0).chain.parameters()) for name, case in CASES.items()}
    assert sizes["tanh-512"] == 16 * (512 * 512 + 512)
    assert sizes["mlp-fashion"] == 784 * 256 + 256 + 18 * (256 * 256 + 256) + 256 * 10 + 10


@pytest.mark.parametrize(
    ("words", "told"), [(["--case", "tanh"], "did you mean 'tanh-512'"), (["--stages", "1"], "2 to 64 stages")]
)
def test_what_cannot_be_measured_is_refused(words: list[str], told: str) -> None:
    shown = CliRunner().invoke(bench, ["pipeline", *words])
    assert shown.exit_code == 2
    assert told in " ".join(shown.output.split())

"""Hundreds of stages on paper: the formulas against the order itself, stage by stage."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.at_scale import DELAY, Times, cycle, point
from benchmarks.command import bench
from worldsheet.pipeline import ActionType, Locked, Unlocked, timeline


@pytest.mark.parametrize("slack", [0, 1, 3])
@pytest.mark.parametrize("travel", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("parts", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.0), (1.0, 1.0, 2.0)])
def test_the_cycle_is_that_of_the_order(slack: int, travel: float, parts: tuple[float, float, float]) -> None:
    up, pull, efforts = parts
    under_way = 1 + 4 * (1 + slack)
    spans = timeline(Unlocked(1, slack), 20 * under_way, [up] * 5, [pull] * 5, [efforts] * 5, travel)
    ends = sorted(span.end for span in spans if span.stage == 0 and span.action.act is ActionType.PULL)
    found = (ends[16 * under_way] - ends[8 * under_way]) / (8 * under_way)
    times = Times(up, pull, efforts, 0.0, 1, 1)
    assert found == pytest.approx(cycle(times, 5, travel, slack), rel=3e-3)


@pytest.mark.parametrize("packets", [2, 6, 12])
def test_a_flushed_order_takes_no_less_than_is_said(packets: int) -> None:
    stages, travel = 6, 0.5
    spans = timeline(Locked(packets), packets, [1.0] * stages, [1.0] * stages, [1.0] * stages, travel)
    least = packets * 3 + (stages - 1) * (2 + 2 * travel)
    assert max(span.end for span in spans) >= least - 1e-9
    assert packets > 2 or max(span.end for span in spans) == pytest.approx(least)


def test_a_point_by_hand() -> None:
    times = Times(0.01, 0.01, 0.01, 0.0, 1_000_000, 1000)
    found = point(times, 8, 1.0, 0.001)  # a message takes 1 + 8 ms, which one packet more an edge hides
    assert found.slack == 1
    assert found.packets == 8
    assert found.packets >= 7 * 2 / DELAY
    assert found.unlocked == pytest.approx(1000 / 0.03)
    assert found.over_1f1b == pytest.approx((8 * 0.03 + 7 * (0.02 + 0.018)) / (8 * 0.03))
    assert found.over_no_bubble == pytest.approx((8 * 0.03 + 7 * 0.018) / (8 * 0.03))
    assert found.limit == "work"
    assert point(times._replace(bytes=10_000_000), 8, 1.0, 0.001).limit == "link"


def test_the_command_measures_and_draws(tmp_path: Path) -> None:
    words = ["scale", "--width", "16", "--samples", "2", "--context", "8", "--figure", str(tmp_path / "scale.png")]
    shown = CliRunner().invoke(bench, [*words, "--json"])
    assert shown.exit_code == 0, shown.output
    result = json.loads(shown.stdout)
    assert result["times"]["bytes"] == 2 * 8 * 16 * 2
    assert len(result["points"]) == 45
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")

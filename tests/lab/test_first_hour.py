"""What a newcomer meets on the command line: mistakes before any work, a sign of life, tables and figures to read."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner

import first_hour
from worldsheet_lab import compare_command, plots
from worldsheet_lab.cli import app
from worldsheet_lab.control import command
from worldsheet_lab.report import learning
from worldsheet_lab.tables import result_tables


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--dynamics", "pc"], ["train has no --dynamics, got pc", "worldsheet compare --dynamics pc"]),
        (["train", "--data-dir", "/nope", "--data", "mnist"], ["--data-dir /nope does not exist"]),
        (["compare", "--dynamics", "pcc"], ["no dynamics is called 'pcc'", "did you mean 'pc'?"]),
        (["stream", "--csv", "/nope.csv"], ["--csv /nope.csv does not exist", "check the path"]),
        (["report", "/nope"], ["there is no folder /nope"]),
        (["control", "nope"], ["no problem is called 'nope'"]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) and value[0].isalpha() else "",
)
def test_a_mistake_ends_with_status_2_and_three_parts(arguments: list[str], told: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert [text for text in told if text not in done.stderr] == []
    assert done.stderr.startswith("error: ")
    assert "\n  accepted: " in done.stderr
    assert "\n  remedy: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_that_cannot_be_written_is_told_before_the_problem_is_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    solved: list[object] = []
    monkeypatch.setattr(command, "solve", lambda *given: solved.append(given))
    done = CliRunner().invoke(app, ["control", "pendulum", "--run", str(tmp_path / "taken" / "run")])
    assert done.exit_code == 2
    assert "cannot be read or written" in done.stderr
    assert solved == []


def test_a_log_hears_of_a_network_at_least_every_30_seconds() -> None:
    now, said = [0.0], list[tuple[float, str]]()
    log = compare_command._Log(50, lambda text: said.append((now[0], text)), lambda: now[0])
    step = log.begin("pc, seed 0")
    for _ in range(50):
        now[0] += 7.0
        step()
    times = [time for time, _ in said]
    assert max(later - sooner for sooner, later in pairwise(times)) <= 30
    assert said[0][1] == "pc, seed 0"
    assert said[1][1] == "  pc, seed 0: step 3 of 50"
    assert len(said) < 20


def test_neighbours_that_show_the_same_are_one_row() -> None:
    same = {"snr": None, "relative_error": 0.0, "one_minus_cosine": 0.0}
    other = {"snr": 1e6, "relative_error": 1e-3, "one_minus_cosine": 1e-6}
    names = [f"{layer}.{kind}" for layer in range(10) for kind in ("weight", "bias")]
    rows = [{"name": name, **(other if name == "9.bias" else same)} for name in names]
    contender = {"test_accuracy": 0.9, "test_loss": 0.1, "train_loss": 0.1, "seconds_per_step": 1e-3, "ticks": None}
    recipe = {"architecture": "mlp", "data": "digits", "epochs": 1, "seed": 0}
    console = Console(record=True, width=80)
    console.print(
        result_tables(
            {
                **{"recipe": recipe, "sites": 10, "parameters": 100, "contenders": {"relaxation": contender}},
                **{"weights_difference": 0.0, "time_ratio": 1.0, "comparisons": 1, "gradients": rows},
            }
        )
    )
    text = console.export_text()
    assert "0.weight to 9.weight, all 19" in text
    assert "9.bias" in text
    assert "1.weight" not in text


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_single_epoch_can_be_seen(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_png", drawn.append)
    row = {"train_loss": 1.0, "test_loss": 1.1, "test_accuracy": 0.8}
    rows: list[Any] = [
        {**row, "contender": name, "epoch": epoch + 1} for name in ("relaxation", "autograd") for epoch in range(epochs)
    ]
    plots.learning_curves(rows, "digits")
    lines = [line for axes in drawn[0].axes for line in axes.lines]
    assert len(lines) == 6
    assert all((line.get_marker() not in ("", "None")) == (epochs == 1) for line in lines)


def test_a_single_epoch_of_several_seeds_can_be_seen_in_the_report() -> None:
    traces = learning._group("pc", {0: [0.8], 1: [0.7], 2: [0.9]}, "#000000", {"width": 2.2})
    assert [trace.mode for trace in traces] == ["markers", "markers", "markers", "lines+markers"]
    several = learning._group("pc", {0: [0.8, 0.9], 1: [0.7, 0.8]}, "#000000", {"width": 2.2})
    assert [trace.mode for trace in several] == ["lines", "lines", "lines+markers"]


@pytest.mark.slow
@pytest.mark.parametrize("step", first_hour.STEPS, ids=lambda step: step.__name__)
def test_the_readme_alone_is_enough(step: Callable[[first_hour.Newcomer], None], tmp_path: Path) -> None:
    step(first_hour.Newcomer(sys.executable, tmp_path))


def test_a_stumble_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer = first_hour.Newcomer(sys.executable, tmp_path)
    monkeypatch.setattr(first_hour, "MISTYPED", {"control nope": "another sentence"})
    with pytest.raises(first_hour.FirstHourError, match="another sentence"):
        first_hour.mistypes(newcomer)
    with pytest.raises(first_hour.FirstHourError, match="status 0, not 1"):
        newcomer.runs("-c", "pass", status=1)

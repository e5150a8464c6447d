"""`worldsheet stream` as a user meets it."""

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from worldsheet_lab.cli import app
from worldsheet_lab.commands.stream import EXAMPLE
from worldsheet_lab.signals import column


def stream(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["stream", *map(str, arguments)])


def test_it_learns_to_track_and_draws_what_it_did(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    done = stream("--seconds", 16, "--dt", 0.02, "--seed", 1, "--figure", picture, "--run", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["status"] == "stream ended"
    assert result["steps"] == 800
    assert result["error_second_half"] < 0.06  # the signal itself has a root mean square of 0.42
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"result.json", "stream.json", "trace.safetensors"}
    trace = load_file(tmp_path / "run" / "trace.safetensors")
    late = (trace["outputs"] - trace["wanted"])[len(trace["times"]) // 2 :]
    assert float(late.square().mean().sqrt()) == pytest.approx(result["error_second_half"], rel=1e-6)


def test_plain_equations_end_with_what_to_do(tmp_path: Path) -> None:
    done = stream("--sign", "plain", "--seconds", 20, "--dt", 0.02, "--figure", tmp_path / "plain.png")
    assert done.exit_code == 0, done.output
    assert "diverged" in done.stdout
    assert "ConstantFlip" in done.stdout


def test_a_column_of_numbers_is_tracked_where_it_is_known(tmp_path: Path) -> None:
    rows = [f"{100 + 30 * math.sin(number / 20):.3f},x" for number in range(160)]
    rows[40:44] = ["", "nan,x", "?,x", "inf,x"]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["celsius,other", *rows]), encoding="utf-8")
    done = stream("--csv", table, "--seconds", 99, "--dt", 0.02, "--figure", tmp_path / "a.png", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["steps"] == round((159 - 1) * 0.1 / 0.02)  # the empty line is no row
    assert result["error_second_half"] < 0.1  # the signal itself has a root mean square of 0.57


def test_a_column_is_scaled_from_its_range_with_straight_lines_between_rows(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("10\n30\n20\nnothing\n10\n", encoding="utf-8")
    signal, seconds = column(table, 0.5)
    assert seconds == pytest.approx(2.0)
    found = [signal(at) for at in (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([-0.8, -0.8, 0.0, 0.8, 0.4, 0.0])
    assert math.isnan(signal(1.25))
    assert math.isnan(signal(1.75))


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--signal", "sinus"), ("no signal", "sine, patched")),
        (("--sign", "up"), ("no sign policy", "track")),
        (("--dt", 0), ("--dt must be positive and at most --seconds, got --dt 0",)),
        (("--csv", "nowhere.csv"), ("--csv nowhere.csv does not exist",)),
        (("--csv", "nowhere.csv", "--spacing", 0), ("--spacing must be positive and finite, got 0",)),
        (("--csv", __file__), ("a signal needs at least two different values", "has 0")),
        (("--speed", -1), ("NeuronModel: speed must be positive and finite, got -1.0",)),
    ],
)
def test_refusals_are_told_in_a_few_lines(arguments: tuple[object, ...], fragments: tuple[str, ...]) -> None:
    done = stream(*arguments)
    assert done.exit_code == 2
    assert all(fragment in done.stderr for fragment in fragments), done.stderr
    assert "Traceback" not in done.output


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = EXAMPLE.partition("Example: worldsheet stream ")[2].split()
    assert stream(*words, "--seconds", 1).exit_code == 0
    assert (tmp_path / "stream.png").is_file()

"""`worldsheet stream` as a user meets it."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from worldsheet.app.cli import app
from worldsheet.app.stream_command import EXAMPLE


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


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--signal", "sinus"), ("no signal", "sine, patched")),
        (("--sign", "up"), ("no sign policy", "track")),
        (("--dt", 0), ("--dt 0", "0 < dt")),
        (("--speed", -1), ("speed=-1.0",)),
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

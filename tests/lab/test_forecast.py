"""`worldsheet stream --forecast` on files that people have: a sound, a table with gaps and times of its own."""

import json
import math
import wave
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from worldsheet_lab.cli import app
from worldsheet_lab.series import series


def forecast(file: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["stream", "--forecast", str(file), *map(str, arguments)])


def sound(path: Path, width: int, samples: list[int]) -> Path:
    """Two channels, of which the second is silent; 8 bits are unsigned."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(8000)
        silence = (128).to_bytes(1, "little") if width == 1 else bytes(width)
        file.writeframes(b"".join(each.to_bytes(width, "little", signed=width > 1) + silence for each in samples))
    return path


def table(path: Path, rows: int) -> tuple[Path, list[float], list[float]]:
    """A wave at irregular times, a tenth of it missing."""
    generator = torch.Generator().manual_seed(0)
    gaps = torch.rand(rows, generator=generator) * 1.5 + 0.25
    times = gaps.double().cumsum(0).tolist()
    missing = (torch.rand(rows, generator=generator) < 0.1).tolist()
    values = [math.nan if gone else 20 + 5 * math.sin(at / 4) for at, gone in zip(times, missing, strict=True)]
    cells = [f"{at},x,{'' if math.isnan(value) else value}" for at, value in zip(times, values, strict=True)]
    path.write_text("\n".join(["when,what,celsius", *cells]), encoding="utf-8")
    return path, times, values


@pytest.mark.parametrize(("width", "middle"), [(1, 128), (2, 0), (4, 0)])
def test_samples_of_a_sound_are_read_as_they_were_written(tmp_path: Path, width: int, middle: int) -> None:
    samples = [middle + offset for offset in (-100, -50, 0, 25, 50, 100, 0, -25, 75, 20, 10)]
    heard = series(sound(tmp_path / "a.wav", width, samples), None, None)
    expected = [0.8 * (each - middle) / 100 for each in samples]
    assert heard.values.tolist() == pytest.approx(expected, abs=1e-12)
    assert heard.gap == pytest.approx(1 / 8000, rel=1e-9)


def test_a_table_is_forecast_at_its_own_times_and_learned_from_where_it_is_known(tmp_path: Path) -> None:
    file, times, values = table(tmp_path / "a.csv", 1500)
    arguments = ("--times", "when", "--seconds", 1e6, "--figure", tmp_path / "a.png", "--run", tmp_path / "run")
    done = forecast(file, *arguments, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    last, squares = math.nan, []
    known = [value for value in values if not math.isnan(value)]
    scale = 1.6 / (max(known) - min(known))
    for now, after in pairwise(values):
        last = last if math.isnan(now) else now
        if not math.isnan(after) and not math.isnan(last):
            squares.append((scale * (after - last)) ** 2)
    late = squares[len(squares) // 2 :]
    assert result["steps"] == 1499
    assert result["repeating_error"] == pytest.approx(math.sqrt(sum(late) / len(late)), rel=1e-6)
    assert result["forecast_error"] < 0.8 * result["repeating_error"]
    recorded = load_file(tmp_path / "run" / "trace.safetensors")["times"]
    assert recorded.tolist() == pytest.approx([at - times[0] for at in times[:-1]], abs=1e-6)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_sound_is_forecast_to_the_second_that_is_asked_for(tmp_path: Path) -> None:
    samples = [round(9000 * math.sin(number / 4)) for number in range(3000)]
    file = sound(tmp_path / "a.wav", 2, samples)
    done = forecast(file, "--seconds", 0.2, "--figure", tmp_path / "a.png", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["steps"] == 1600
    assert result["forecast_error"] < result["repeating_error"]


REFUSED: dict[str, tuple[str, tuple[object, ...], tuple[str, ...]]] = {
    "absent": ("", (), ("does not exist", "WAV or CSV")),
    "column": ("a,b\n1,2\n", ("--column", "c"), ("has no column 'c'", "one of a, b")),
    "times": ("t,b\n1,2\n3,3\n2,4\n", ("--times", "t"), ("do not ascend: row 4 has 2 after 3", "sort the rows")),
    "no-time": ("t,b\n1,2\n,3\n2,4\n", ("--times", "t"), ("do not ascend: row 3 has nan after 1",)),
    "constant": ("b\n" + "1\n" * 20, (), ("at least 10 numbers that differ", "--column")),
    "few": ("b\n1\n2\n", (), ("has 2",)),
    "short": (
        "b\n" + "\n".join(map(str, range(99))),
        ("--seconds", 3),
        ("must hold 10 rows, and they have 4", "try --seconds 100"),
    ),
    "two": ("b\n1\n2\n", ("--csv", "x.csv"), ("--forecast and --csv must not be given together",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_forecast_is_refused_with_a_way_out(name: str, tmp_path: Path) -> None:
    text, arguments, fragments = REFUSED[name]
    file = tmp_path / "a.csv"
    if text:
        file.write_text(text, encoding="utf-8")
    done = forecast(file, *arguments, "--figure", tmp_path / "a.png")
    assert done.exit_code == 2
    assert all(fragment in done.stderr.replace("\n", " ") for fragment in fragments), done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("content", [b"", b"RIFF no sound", bytes(64)])
def test_what_is_no_sound_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(content)
    done = forecast(file)
    assert done.exit_code == 2
    assert "cannot be read as a WAV file" in done.stderr.replace("\n", " ")

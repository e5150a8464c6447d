"""Series that people have: a sound in a WAV file, or a CSV file with gaps and times of its own."""

import csv
import math
import wave
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from worldsheet.core.errors import InputError

_REACH = 0.8  # of the scaled series: what a tanh neuron reaches with ease
_FEWEST = 10
_CONVERT = "convert it, as with ffmpeg -i FILE -c:a pcm_s16le OUT.wav"
_WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


class Series(NamedTuple):
    """Numbers and when they came.

    Attributes:
        values: scaled from their range to ±0.8; NaN where unknown.
        times: in seconds, ascending.
    """

    values: Tensor
    times: Tensor

    @property
    def gap(self) -> float:
        """The median number of seconds from one to the next."""
        return float(median(self.times.diff().tolist()))


def series(path: Path, value: str | None, time: str | None) -> Series:
    """Read a WAV file's first channel, or a column of a CSV file.

    Args:
        path: a WAV file if its name ends so, else CSV with a header.
        value: the column of a CSV file; its last if left out.
        time: the column that says when, in seconds; rows are a second apart if left out.

    Raises:
        InputError: a file or a column that is not there, fewer than ten numbers, the same one throughout, or times
            that do not ascend.
    """
    if not path.is_file():
        raise InputError(f"--forecast {path} does not exist", "a WAV or CSV file", "check the path")
    read = _sound(path) if path.suffix.lower() == ".wav" else _table(path, value, time)
    known = read.values[read.values.isfinite()]
    if len(known) < _FEWEST or known.min() == known.max():
        raise InputError(
            f"a forecast needs at least {_FEWEST} numbers that differ, and {path} has {len(known)}",
            "a series that moves",
            "choose another column with --column",
        )
    middle, half = (known.max() + known.min()) / 2, (known.max() - known.min()) / 2
    return Series(_REACH * (read.values - middle) / half, read.times)


def until(heard: Series, seconds: float) -> Series:
    """The beginning of a series.

    Raises:
        InputError: a beginning that holds fewer than ten numbers.
    """
    count = int((heard.times - heard.times[0] <= seconds).sum())
    if count < _FEWEST:
        raise InputError(
            f"the first {seconds:g} seconds of the series must hold {_FEWEST} rows, and they have {count}",
            f"at least {_FEWEST} rows",
            f"try --seconds {_FEWEST * 10 * heard.gap:g}",
        )
    return Series(heard.values[:count], heard.times[:count])


def _sound(path: Path) -> Series:
    try:
        with wave.open(str(path)) as sound:
            width, rate, channels = sound.getsampwidth(), sound.getframerate(), sound.getnchannels()
            frames = bytearray(sound.readframes(sound.getnframes()))
    except (wave.Error, EOFError) as error:
        problem = f"{path} cannot be read as a WAV file: {error}"
        raise InputError(
            problem, "uncompressed WAV", "convert it, as with ffmpeg -i FILE -c:a pcm_s16le OUT.wav"
        ) from error
    if width not in _WIDTHS:
        raise InputError(
            f"the samples of {path} must have 8, 16 or 32 bits, got {8 * width}",
            "samples of 8, 16 or 32 bits",
            _CONVERT,
        )
    whole = len(frames) // (width * channels) * channels
    samples = torch.frombuffer(frames, dtype=_WIDTHS[width], count=whole) if whole else torch.empty(0)
    values = samples.view(-1, channels)[:, 0].double()
    return Series(values, torch.arange(len(values), dtype=torch.float64) / rate)


def _table(path: Path, value: str | None, time: str | None) -> Series:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    header = [cell.strip() for cell in rows[0]] if rows else []
    values = _column(path, rows, header, header[-1] if value is None and header else value or "")
    times = torch.arange(len(values)).double() if time is None else _column(path, rows, header, time)
    late = (~(times.diff() > 0)).nonzero().flatten().tolist()
    if late:
        raise InputError(
            f"the times in column {time} of {path} do not ascend: row {late[0] + 3} has {float(times[late[0] + 1]):g} "
            f"after {float(times[late[0]]):g}",
            "numbers in seconds, each above the one before",
            "sort the rows by time and leave out those without one",
        )
    return Series(values, times)


def _column(path: Path, rows: list[list[str]], header: list[str], name: str) -> Tensor:
    """A column of numbers, NaN where a cell is none."""
    if name not in header:
        raise InputError(
            f"{path} has no column {name!r}",
            "one of " + ", ".join(header) if header else "a file with a header",
            "name it with --column, or the times with --times",
        )
    place = header.index(name)
    cells = [row[place] if place < len(row) else "" for row in rows[1:]]
    return torch.tensor([_number(cell) for cell in cells], dtype=torch.float64)


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan

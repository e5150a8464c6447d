"""Signals to track: by name, or from a column of numbers."""

import csv
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TextIO, TypeAlias

from worldsheet.core.errors import InputError

Signal: TypeAlias = Callable[[float], float]
"""A value for every second; NaN where it is unknown."""

_REACH = 0.8  # of a column of numbers once it is scaled: what a tanh neuron reaches with ease


def _sine(at: float) -> float:
    return 0.6 * math.sin(at / 2)


def _patched(at: float) -> float:
    """Cosines and constants in turns of four seconds, with jumps between them."""
    piece, phase = divmod(at, 4.0)
    values = (0.6 * math.cos(2 * phase), 0.4, 0.5 * math.cos(4 * phase), -0.5, 0.3 * math.cos(phase), 0.0)
    return values[int(piece) % len(values)]


SIGNALS: Mapping[str, Signal] = {"sine": _sine, "patched": _patched}


def column(path: Path, spacing: float) -> tuple[Signal, float]:
    """The first column of a CSV file as a signal, straight lines between its rows, and how long it lasts.

    A first row without a number is a header. Any other cell that is no finite number is unknown. Numbers are scaled
    from their range to ±0.8.

    Args:
        path: the file; `-` is standard input.
        spacing: seconds from row to row.

    Raises:
        InputError: no such file, fewer than two numbers, all of them the same, or a spacing that is not positive.
    """
    if not (math.isfinite(spacing) and spacing > 0):
        raise InputError(
            f"--spacing must be positive and finite, got {spacing}", "seconds from row to row", "try --spacing 0.1"
        )
    with _opened(path) as file:
        values = [_number(row[0]) for row in csv.reader(file) if row]
    if values and math.isnan(values[0]):
        values = values[1:]
    known = [value for value in values if math.isfinite(value)]
    if not known or min(known) == max(known):
        raise InputError(
            f"a signal needs at least two different values, and the first column of {path} has {len(set(known))}",
            "one number in each row of a file, in the first column",
            "put the signal into the first column, a row each",
        )
    middle, half = (max(known) + min(known)) / 2, (max(known) - min(known)) / 2
    scaled = [_REACH * (value - middle) / half for value in values]
    slopes = [after - before for before, after in pairwise(scaled)]

    def signal(at: float) -> float:
        place = min(max(at / spacing, 0.0), float(len(slopes)))
        row = min(int(place), len(slopes) - 1)
        return scaled[row] + slopes[row] * (place - row) if place > row else scaled[row]

    return signal, spacing * len(slopes)


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if str(path) == "-":
        yield sys.stdin
        return
    if not path.is_file():
        raise InputError(f"--csv {path} does not exist", "a file, or - for standard input", "check the path")
    with path.open(encoding="utf-8", newline="") as file:
        yield file

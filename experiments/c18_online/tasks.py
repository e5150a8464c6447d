"""Streams to learn from: two chaotic series one step ahead, digits read row by row, a text letter by letter."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worldsheet_lab.data import load


class Task(NamedTuple):
    """A stream for `streams` listeners at once.

    Attributes:
        inputs: (steps, streams, channels).
        targets: (steps, streams, outputs), one-hot for classes; NaN where nothing is to be learned.
        classes: whether the targets are classes.
    """

    inputs: Tensor
    targets: Tensor
    classes: bool


GAIN = 4.0
"""What class scores are multiplied by before the softmax: outputs are bounded by ±1."""


def mackey_glass(steps: int) -> Task:
    """Mackey and Glass's equation with delay 17, one time unit per step; the next value is to be told."""
    delay, fine = 17, 10
    values = [1.2] * (delay * fine + 1)
    for _ in range((steps + 201) * fine):
        late, now = values[-delay * fine - 1], values[-1]
        values.append(now + (0.2 * late / (1 + late**10) - 0.1 * now) / fine)
    series = torch.tensor(values[delay * fine :: fine])[200:]
    return _one_ahead(((series - 0.9) / 0.6)[:, None], steps)


def lorenz(steps: int) -> Task:
    """Lorenz's equations, 0.02 time units per step; the first coordinate is heard, its next value to be told."""
    point = torch.tensor([1.0, 1.0, 20.0], dtype=torch.float64)
    kept = []
    for _ in range(steps + 200):
        for _ in range(4):
            x, y, z = point.tolist()
            point = point + 0.005 * torch.tensor(
                [10 * (y - x), x * (28 - z) - y, x * y - 8 * z / 3], dtype=torch.float64
            )
        kept.append(float(point[0]) / 25)
    return _one_ahead(torch.tensor(kept[199:])[:, None], steps)


def rows(steps: int, name: str = "digits", streams: int = 8, permuted: bool = False) -> Task:
    """Images, a row of pixels per step; the class is told at the last row only, and nothing is ever reset.

    Permuted: the pixels of all images are put into one other order, so that rows say nothing by themselves.
    """
    digits = load(name)
    length = digits.train_images.shape[-1]
    images = digits.train_images.flatten(1) / 2
    if permuted:
        images = images[:, torch.randperm(length * length, generator=torch.Generator().manual_seed(1000))]
    rounds = -(-steps // length)
    epochs = -(-rounds * streams // len(images))
    order = torch.cat([torch.randperm(len(images), generator=torch.Generator().manual_seed(k)) for k in range(epochs)])
    chosen = order[: rounds * streams].view(rounds, streams)
    inputs = images[chosen].unflatten(-1, (length, length)).transpose(1, 2).flatten(0, 1)
    targets = torch.full((rounds, length, streams, 10), torch.nan)
    targets[:, -1] = one_hot(digits.train_labels[chosen].long(), 10).float()
    return Task(inputs[:steps], targets.flatten(0, 1)[:steps], classes=True)


LETTERS = "abcdefghijklmnopqrstuvwxyz .,"


def text(steps: int, streams: int = 8) -> Task:
    """The next letter of this project's licence, in lower case and 29 signs, read over and over from eight places."""
    licence = Path(__file__).parents[2] / "LICENSE"
    words = " ".join(licence.read_text(encoding="utf-8").lower().split())
    read = torch.tensor([LETTERS.index(sign) for sign in words if sign in LETTERS])
    starts = torch.arange(streams) * len(read) // streams
    places = (torch.arange(steps + 1)[:, None] + starts) % len(read)
    heard = one_hot(read[places], len(LETTERS)).float()
    return Task(heard[:-1], heard[1:], classes=True)


def _one_ahead(series: Tensor, steps: int) -> Task:
    return Task(series[:steps, None], series[1 : steps + 1, None], classes=False)


SERIES: Mapping[str, Callable[[int], Task]] = {"Mackey–Glass": mackey_glass, "Lorenz": lorenz}
SMALL: Mapping[str, Callable[[int], Task]] = {**SERIES, "digits by rows": rows}
FULL: Mapping[str, Callable[[int], Task]] = {
    "MNIST by rows": partial(rows, name="mnist"),
    "permuted MNIST by rows": partial(rows, name="mnist", permuted=True),
    "text by letters": text,
    **SERIES,
}

"""Streams to learn from: two chaotic series one step ahead, and digits read row by row."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worldsheet.app.data import load


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


def rows_of_digits(steps: int, streams: int = 8) -> Task:
    """Eight rows of eight pixels, a row per step; the class is told at the last row only, and nothing is ever reset."""
    digits = load("digits")
    images = digits.train_images.reshape(-1, 8, 8) / 2
    order = torch.cat([torch.randperm(len(images), generator=torch.Generator().manual_seed(k)) for k in range(200)])
    rounds = -(-steps // 8)
    chosen = order[: rounds * streams].view(rounds, streams)
    inputs = images[chosen].transpose(1, 2).reshape(rounds * 8, streams, 8)
    classes = one_hot(digits.train_labels[chosen].long(), 10).float()
    targets = torch.full((rounds, 8, streams, 10), torch.nan)
    targets[:, -1] = classes
    return Task(inputs[:steps], targets.reshape(rounds * 8, streams, 10)[:steps], classes=True)


def _one_ahead(series: Tensor, steps: int) -> Task:
    return Task(series[:steps, None], series[1 : steps + 1, None], classes=False)


TASKS = {"Mackey–Glass": mackey_glass, "Lorenz": lorenz, "digits by rows": rows_of_digits}

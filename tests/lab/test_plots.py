"""Figures, looked at pixel by pixel."""

import io
from typing import Any

import numpy as np
import torch
from matplotlib.image import imread

from worldsheet_lab import plots

REST = np.array([217, 217, 217])


def pixels(png: bytes) -> np.ndarray:
    return (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)


def resting(picture: np.ndarray) -> int:
    return int((picture == REST).all(-1).sum())


def sheet(depth: int) -> dict[str, torch.Tensor]:
    """A state front that is one site broad and a costate front that is two."""
    ticks = torch.arange(2 * depth + 1)
    states, costates = torch.zeros(2 * depth + 1, depth).double(), torch.zeros(2 * depth + 1, depth).double()
    for site in range(1, depth + 1):
        states[site - 1, site - 1] = 1.0
        costates[2 * depth - site - 1 : 2 * depth - site + 1, site - 1] = 1e-3
    return {"ticks": ticks, "state_residuals": states, "costate_residuals": costates}


def test_what_is_at_rest_is_grey_in_proportion() -> None:
    depth = 10
    cells = depth * (2 * depth + 1)
    picture = pixels(plots.worldsheet(sheet(depth), depth, "fronts"))
    half = picture.shape[1] // 2
    ratio = resting(picture[:, :half]) / resting(picture[:, half:])
    assert abs(ratio - (cells - depth) / (cells - 2 * depth)) < 0.02


def test_rounding_counts_as_rest() -> None:
    clean, noisy = sheet(8), sheet(8)
    noisy["state_residuals"][clean["state_residuals"] == 0] = 1e-8
    assert resting(pixels(plots.worldsheet(clean, 8, "t"))) == resting(pixels(plots.worldsheet(noisy, 8, "t")))


def test_a_field_that_never_moved_is_all_grey() -> None:
    still = {**sheet(6), "costate_residuals": torch.zeros(13, 6).double()}
    moving, still_picture = (pixels(plots.worldsheet(found, 6, "t")) for found in (sheet(6), still))
    half = moving.shape[1] // 2
    assert resting(still_picture[:, half:]) > 1.1 * resting(moving[:, half:])


def test_both_contenders_are_seen_where_their_curves_coincide() -> None:
    rows: list[dict[str, Any]] = [
        {"contender": name, "epoch": epoch, "train_loss": 1 / epoch, "test_loss": 2 / epoch, "test_accuracy": 0.9}
        for epoch in range(1, 6)
        for name in ("relaxation", "autograd")
    ]
    both = pixels(plots.learning_curves(rows, "t"))
    orange, pale = np.array([255, 127, 14]), np.array([255, 204, 159])
    counts = [int((abs(both - color).max(-1) <= 3).sum()) for color in (orange, pale)]
    assert counts[0] > 150  # the thin dashes
    assert counts[1] > counts[0]  # and the broad line under them
    rows[0]["train_loss"] = None  # an overflow leaves a gap
    assert (pixels(plots.learning_curves(rows, "t")) != both).any()

"""PC-ALM trains deep narrow residual nets nearly as well as backprop where predictive coding does not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.data import DataSet, load

BATCH = 64
METHODS: Mapping[str, ws.dynamics.Dynamics] = {
    "bp": ws.Dyadic(),
    "pc": ws.PredictiveCoding(),
    "pc-alm": ws.AugmentedLagrangian(),
}
ACTIVATIONS: Mapping[str, ws.nn.Nonlinearity] = {kind.name.lower(): kind for kind in ws.nn.Nonlinearity}
PUBLISHED = ("fashion-mnist", "relu", 32, 32)
SIZES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Cell:
    """One training run of the map."""

    data: str
    activation: str
    width: int
    depth: int
    method: str
    seed: int = 0
    epochs: int = 1
    rate: float = 1e-3

    def __str__(self) -> str:
        return f"{self.data} {self.activation} N={self.width} L={self.depth} {self.method} seed={self.seed}"


def misfit(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance to the one-hot label, averaged over the batch."""
    return 0.5 * (output - target).square().sum(1).mean()


def train(cell: Cell, data: DataSet, device: torch.device) -> dict[str, float]:
    """Train with 2L ticks a step; test accuracy in per cent, and the cosine to backprop's gradient.

    The step η is estimated once, from the first batch. The cosine is that of all parameters taken together, averaged
    over 20 moments of the training.
    """
    images, labels = data.train_images.flatten(1).to(device), data.train_labels.to(device)
    classes = len(data.classes)
    targets = nn.functional.one_hot(labels, classes).to(images)
    torch.manual_seed(cell.seed)
    net = ws.nn.residual_mlp(
        cell.depth, cell.width, ACTIVATIONS[cell.activation], inputs=images.shape[1], classes=classes
    ).to(device)
    chain = ws.Chain(net, misfit)
    optimizer = torch.optim.Adam(net.parameters(), lr=cell.rate * sqrt(cell.width / cell.depth))
    dynamics = ws.calibrate(chain, images[:BATCH], targets[:BATCH], METHODS[cell.method])
    stop = ws.Stop(max_ticks=2 * cell.depth)
    order = torch.Generator().manual_seed(cell.seed)
    steps = [batch for _ in range(cell.epochs) for batch in torch.randperm(len(images), generator=order).split(BATCH)]
    cosines = []
    for number, batch in enumerate(steps):
        x, y = images[batch], targets[batch]
        if number % max(1, len(steps) // 20) == 0:
            cosines.append(cosine(chain, x, y, dynamics, stop))
        ws.backward(chain, x, y, dynamics, stop=stop)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        hits = net(data.test_images.flatten(1).to(device)).argmax(1).cpu() == data.test_labels
    rate = dynamics.rate if isinstance(dynamics, ws.PredictiveCoding | ws.AugmentedLagrangian) else None
    return {"accuracy": 100 * float(hits.float().mean()), "cosine": fmean(cosines), "rate": rate or 0.0}


def cosine(chain: ws.Chain, x: Tensor, y: Tensor, dynamics: ws.dynamics.Dynamics, stop: ws.Stop) -> float:
    """Of the relaxed and the exact gradient, each as one vector."""
    ours, exact = (
        torch.cat([gradient.flatten() for gradient in sol.gradients().values()]).double()
        for sol in (ws.relax(chain, x, y, dynamics, stop=stop), ws.relax(chain, x, y))
    )
    return float(ours @ exact / (ours.norm() * exact.norm()))


def headline(size: Size) -> Iterator[Cell]:
    """The published cell with three seeds; none at the small size."""
    if size is Size.FULL:
        for seed in range(3):
            yield from (Cell(*PUBLISHED, method, seed) for method in METHODS)


def grid(size: Size) -> Iterator[Cell]:
    """The whole map, small networks first, or its corner on embedded digits with ten times the learning rate."""
    sizes = SIZES if size is Size.FULL else SIZES[:2]
    for width, depth in sorted(((n, depth) for n in sizes for depth in sizes), key=lambda pair: pair[0] * pair[1] ** 2):
        if size is Size.SMALL:
            yield from (Cell("digits", "relu", width, depth, method, epochs=4, rate=1e-2) for method in METHODS)
            continue
        for data in ("fashion-mnist", "mnist"):
            for activation in reversed(ACTIVATIONS):
                yield from (Cell(data, activation, width, depth, method) for method in METHODS)


def measure(size: Size, cells: Cells) -> Findings:
    """Cell by cell; an interrupt ends the measurement early and records the cells that are done."""
    sets: dict[str, DataSet] = {}
    rows: list[dict[str, Any]] = []
    try:
        for cell in (*headline(size), *grid(size)):
            if cell.data not in sets:
                sets[cell.data] = load(cell.data)
            found = cells.get(str(cell), lambda cell=cell: train(cell, sets[cell.data], cells.device))
            rows.append({**vars(cell), **found})
    except KeyboardInterrupt:
        pass
    named = [row for row in rows if size is Size.SMALL or (key_of(row) == PUBLISHED)]
    figures = {"cells": float(len(rows))}
    for method in METHODS:
        own = [row for row in named if row["method"] == method]
        for figure in ("accuracy", "cosine"):
            if own:
                figures[f"{figure}_{method.replace('-', '_')}"] = fmean(row[figure] for row in own)
    return Findings(figures, {"cells": rows})


def key_of(row: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """Data, activation, width and depth."""
    return row["data"], row["activation"], row["width"], row["depth"]


def draw(record: Record, path: Path) -> None:
    """A square per cell: one row of maps per data set and activation, one column per method."""
    rows = record.tables["cells"]
    kinds = sorted({key_of(row)[:2] for row in rows})
    figure, axes = plt.subplots(
        len(kinds), len(METHODS), figsize=(7.5, 0.6 + 2.1 * len(kinds)), squeeze=False, layout="constrained"
    )
    for kind, line in zip(kinds, axes, strict=True):
        for method, axis in zip(METHODS, line, strict=True):
            _map(axis, [row for row in rows if key_of(row)[:2] == kind and row["method"] == method], rows)
            axis.set_title(f"{', '.join(kind)}: {method}", fontsize=8)
    figure.supxlabel("width N", fontsize=9)
    figure.supylabel("depth L", fontsize=9)
    figure.suptitle("test accuracy in per cent", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _map(axis: Any, mine: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
    widths, depths = sorted({row["width"] for row in rows}), sorted({row["depth"] for row in rows})
    values = torch.full((len(depths), len(widths)), float("nan"))
    for y, depth in enumerate(depths):
        for x, width in enumerate(widths):
            here = [row["accuracy"] for row in mine if (row["width"], row["depth"]) == (width, depth)]
            if here:
                values[y, x] = fmean(here)
                axis.text(x, y, f"{values[y, x]:.0f}", ha="center", va="center", fontsize=7, color="white")
    axis.imshow(values, origin="lower", vmin=10, vmax=100, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(widths)), widths, fontsize=7)
    axis.set_yticks(range(len(depths)), depths, fontsize=7)


if __name__ == "__main__":
    matplotlib.use("Agg")
    experiment(__file__, measure, draw)

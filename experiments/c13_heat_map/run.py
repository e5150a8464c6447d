"""PC-ALM trains deep narrow residual nets nearly as well as backprop where predictive coding does not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from threefry import normal, seeded, split
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.plots import AT_REST

BATCH = 64
_NAMES = {"bp": "backprop"}
METHODS: Mapping[str, ws.dynamics.Dynamics] = {
    "bp": ws.Dyadic(),
    "pc": ws.PredictiveCoding(),
    "pc-alm": ws.AugmentedLagrangian(),
}
ACTIVATIONS: Mapping[str, ws.nn.Nonlinearity] = {kind.name.lower(): kind for kind in ws.nn.Nonlinearity}
PUBLISHED = ("fashion-mnist", "relu", 32, 32)
SOURCE_STEP = 0.23588549900873967
"""The source's η for the published cell, a median over three seeds; ours is estimated anew for each cell."""
SOURCE_SEEDS = range(5)
SIZES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Cell:
    """One training run of the map.

    Attributes:
        as_published: whether weights, order of images and step η are the source's for this seed.
    """

    data: str
    activation: str
    width: int
    depth: int
    method: str
    seed: int = 0
    epochs: int = 1
    rate: float = 1e-3
    as_published: bool = False

    def __str__(self) -> str:
        name = f"{self.data} {self.activation} N={self.width} L={self.depth} {self.method} seed={self.seed}"
        return f"{name} as published" if self.as_published else name


@dataclass(frozen=True)
class Course:
    """What a network is trained on, and in which order.

    Attributes:
        images: rows of pixels.
        targets: rows of one-hot labels.
        batches: indices of rows.
    """

    images: Tensor
    targets: Tensor
    batches: Sequence[Tensor]


def misfit(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance to the one-hot label, averaged over the batch."""
    return 0.5 * (output - target).square().sum(1).mean()


def train(cell: Cell, data: DataSet, device: torch.device) -> dict[str, float]:
    """Train with 2L ticks a step; test accuracy in per cent, and the cosine to backprop's gradient.

    The step η is estimated once, from the first batch, unless it is the source's. The cosine is that of all parameters
    taken together: its mean over 20 moments of the training, and after it on the first 64 rows, which is published.
    """
    torch.manual_seed(cell.seed)
    pixels = data.train_images[0].numel()
    net = ws.nn.residual_mlp(
        cell.depth, cell.width, ACTIVATIONS[cell.activation], inputs=pixels, classes=len(data.classes)
    )
    if cell.as_published:
        draw_as_published(net, cell.seed)
    net, chain = net.to(device), ws.Chain(net, misfit)
    course = order_as_published(cell, data, device) if cell.as_published else order(cell, data, device)
    optimizer = torch.optim.Adam(net.parameters(), lr=cell.rate * sqrt(cell.width / cell.depth))
    dynamics = step_of(cell, chain, course)
    stop = ws.Stop(max_ticks=2 * cell.depth)
    cosines = []
    for number, batch in enumerate(course.batches):
        x, y = course.images[batch], course.targets[batch]
        if number % max(1, len(course.batches) // 20) == 0:
            cosines.append(cosine(chain, x, y, dynamics, stop))
        ws.backward(chain, x, y, dynamics, stop=stop)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        hits = net(data.test_images.flatten(1).to(device)).argmax(1).cpu() == data.test_labels
    rate = dynamics.rate if isinstance(dynamics, ws.PredictiveCoding | ws.AugmentedLagrangian) else None
    return {
        "accuracy": 100 * float(hits.float().mean()),
        "cosine": fmean(cosines),
        "cosine_after": cosine(chain, course.images[:BATCH], course.targets[:BATCH], dynamics, stop),
        "rate": rate or 0.0,
    }


def draw_as_published(net: nn.Module, seed: int) -> None:
    """A key for each layer, and from it a standard normal weight."""
    weights = list(net.parameters())
    with torch.no_grad():
        for key, weight in zip(split(seeded(seed), len(weights)), weights, strict=True):
            weight.copy_(normal(key, tuple(weight.shape)))


def order(cell: Cell, data: DataSet, device: torch.device) -> Course:
    """Anew in each epoch, the last batch smaller."""
    images, targets = rows(data, device)
    generator = torch.Generator().manual_seed(cell.seed)
    batches = [
        batch for _ in range(cell.epochs) for batch in torch.randperm(len(images), generator=generator).split(BATCH)
    ]
    return Course(images, targets, batches)


def order_as_published(cell: Cell, data: DataSet, device: torch.device) -> Course:
    """NumPy's shuffle of all rows, then a permutation for each epoch, without the last, smaller batch."""
    images, targets = rows(data, device)
    shuffled = np.arange(len(images))
    np.random.default_rng(cell.seed).shuffle(shuffled)
    whole = len(images) // BATCH * BATCH
    batches: list[Tensor] = []
    for epoch in range(cell.epochs):
        permuted = np.random.default_rng(cell.seed + epoch).permutation(len(images))[:whole]
        batches.extend(torch.from_numpy(permuted).to(device).split(BATCH))
    first = torch.from_numpy(shuffled).to(device)
    return Course(images[first], targets[first], batches)


def rows(data: DataSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images as rows, and labels as rows of zeros with a one."""
    images = data.train_images.flatten(1).to(device)
    return images, nn.functional.one_hot(data.train_labels.to(device), len(data.classes)).to(images)


def step_of(cell: Cell, chain: ws.Chain, course: Course) -> ws.dynamics.Dynamics:
    """The method with a number for η."""
    dynamics = METHODS[cell.method]
    if cell.as_published and dynamics.automatic:
        return replace(dynamics, rate=SOURCE_STEP)
    return ws.calibrate(chain, course.images[:BATCH], course.targets[:BATCH], dynamics)


def cosine(chain: ws.Chain, x: Tensor, y: Tensor, dynamics: ws.dynamics.Dynamics, stop: ws.Stop) -> float:
    """Of the relaxed and the exact gradient, each as one vector."""
    ours, exact = (
        torch.cat([gradient.flatten() for gradient in sol.gradients().values()]).double()
        for sol in (ws.relax(chain, x, y, dynamics, stop=stop), ws.relax(chain, x, y))
    )
    return float(ours @ exact / (ours.norm() * exact.norm()))


def headline(size: Size) -> Iterator[Cell]:
    """The published cell with the source's own draws for five seeds; none at the small size."""
    if size is Size.FULL:
        for seed in SOURCE_SEEDS:
            yield from (Cell(*PUBLISHED, method, seed, as_published=True) for method in METHODS)


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
    figures = {"cells": float(len(rows))}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        figures |= mean_figures(method, own) if size is Size.SMALL else published_figures(method, own)
    return Findings(figures, {"cells": rows})


def mean_figures(method: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of all cells that are done."""
    name = method.replace("-", "_")
    return {f"{figure}_{name}": fmean(row[figure] for row in rows) for figure in ("accuracy", "cosine") if rows}


def published_figures(method: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the published cell: seed 0, which the source reports, and all seeds as mean and deviation."""
    name = method.replace("-", "_")
    cells = [row for row in rows if row["as_published"]]
    found: dict[str, float] = {}
    for figure in ("accuracy", "cosine_after"):
        values = [row[figure] for row in cells]
        if values:
            found[f"{figure}_{name}_seed_0"] = values[0]
        if len(values) > 1:
            found |= {f"{figure}_{name}_mean": fmean(values), f"{figure}_{name}_sd": stdev(values)}
    return found


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
            axis.set_title(f"{', '.join(kind)}: {_NAMES.get(method, method)}", fontsize=8)
    figure.supxlabel("width N", fontsize=9)
    figure.supylabel("depth L", fontsize=9)
    figure.suptitle("test accuracy in per cent (grey: not run)", fontsize=9)
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
                axis.text(
                    x,
                    y,
                    f"{values[y, x]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if values[y, x] < 70 else "black",
                )
    axis.set_facecolor(AT_REST)
    axis.grid(visible=False)
    axis.imshow(values, origin="lower", vmin=10, vmax=100, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(widths)), widths, fontsize=7)
    axis.set_yticks(range(len(depths)), depths, fontsize=7)


if __name__ == "__main__":
    matplotlib.use("Agg")
    experiment(__file__, measure, draw)

"""Credit travels ballistically with multipliers and diffuses without: arrival goes as L or as L squared."""

from math import log, sqrt
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment

RATE = 0.25
DEPTHS = {Size.SMALL: (8, 16, 32), Size.FULL: (8, 16, 32, 64, 128)}
DUAL_RATES = (1.0, 0.5, 0.25)


def slope(output: Tensor, target: Tensor) -> Tensor:
    """A cost whose gradient is the target: a steady source of credit."""
    return (output * target).sum()


def arrival(depth: int, dynamics: ws.dynamics.Dynamics) -> int:
    """The tick at which credit at the first site rises most steeply, in a chain of identities.

    Every layer passes on what it gets, so that the front's shape is that of the dynamics alone.
    """
    layers = [nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(depth)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, dtype=torch.float64)
    stop = ws.Stop(max_ticks=20 * depth * depth, arrival=True)
    sol = ws.relax(ws.Chain(nn.Sequential(*layers), slope), x, torch.ones_like(x), dynamics, stop=stop)
    if sol.outcome.status is not ws.Status.ARRIVED:
        raise RuntimeError(f"credit did not arrive: {sol.outcome}")
    return sol.ticks


def measure(size: Size, cells: Cells) -> Findings:
    """Arrival by depth for predictive coding and for PC-ALM at several α."""
    rows: list[dict[str, Any]] = []
    for depth in DEPTHS[size]:
        pc = cells.get(f"PC L={depth}", lambda d=depth: arrival(d, ws.PredictiveCoding(rate=RATE)))
        rows.append({"method": "PC", "dual_rate": 0.0, "depth": depth, "arrival": pc})
        for alpha in DUAL_RATES:
            dynamics = ws.AugmentedLagrangian(rate=RATE, dual_rate=alpha)
            alm = cells.get(f"PC-ALM α={alpha} L={depth}", lambda d=depth, a=dynamics: arrival(d, a))
            rows.append({"method": "PC-ALM", "dual_rate": alpha, "depth": depth, "arrival": alm})
    figures = {"exponent_pc": exponent(rows, 0.0)}
    for alpha in DUAL_RATES:
        figures[f"exponent_pc_alm_{alpha:g}"] = exponent(rows, alpha)
        figures[f"speed_over_theory_{alpha:g}"] = speed(rows, alpha) / sqrt(alpha * RATE)
    return Findings(figures, {"arrivals": rows})


def _curve(rows: Any, alpha: float) -> tuple[list[int], list[int]]:
    own = [row for row in rows if row["dual_rate"] == alpha]
    return [row["depth"] for row in own], [row["arrival"] for row in own]


def exponent(rows: Any, alpha: float) -> float:
    """The slope of arrival against depth in the logarithm, by least squares."""
    depths, ticks = _curve(rows, alpha)
    return float(np.polyfit([log(depth) for depth in depths], [log(tick) for tick in ticks], 1)[0])


def speed(rows: Any, alpha: float) -> float:
    """Layers per tick between the two deepest chains, where the start no longer matters."""
    depths, ticks = _curve(rows, alpha)
    return (depths[-1] - depths[-2]) / (ticks[-1] - ticks[-2])


def draw(record: Record, path: Path) -> None:
    """Arrival against depth, with the theory's lines."""
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    rows = record.tables["arrivals"]
    depths, ticks = _curve(rows, 0.0)
    axis.loglog(depths, ticks, "s-", c="C1", label=f"PC, exponent {record.figures['exponent_pc']:.2f}")
    for number, alpha in enumerate(DUAL_RATES):
        depths, ticks = _curve(rows, alpha)
        colour = f"C{(0, 2, 3)[number]}"
        label = f"PC-ALM α = {alpha:g}, exponent {record.figures[f'exponent_pc_alm_{alpha:g}']:.2f}"
        axis.loglog(depths, ticks, "o", c=colour, label=label)
        axis.loglog(depths, [depth / sqrt(alpha * RATE) for depth in depths], "-", c=colour, lw=0.8)
    axis.set_xlabel("depth L")
    axis.set_ylabel("tick of arrival")
    axis.legend(fontsize=8, title="lines: L/√(αη)", title_fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    matplotlib.use("Agg")
    experiment(__file__, measure, draw)

"""At the equilibrium of PC-ALM the gradient of a linear network is backprop's; that of predictive coding is not."""

from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment

WIDTH = 6
DEPTHS = {Size.SMALL: (2, 4, 8), Size.FULL: (2, 4, 8, 16)}
METHODS = {"PC-ALM": ws.AugmentedLagrangian(), "PC": ws.PredictiveCoding()}


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance, averaged over the batch."""
    return 0.5 * (output - target).square().sum(1).mean()


def plain(depth: int) -> nn.Sequential:
    """Linear layers that keep the size of a state in the mean."""
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(depth)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=1 / sqrt(WIDTH))
    return nn.Sequential(*layers)


def residual(depth: int) -> nn.Sequential:
    """The residual MLP without nonlinearity."""
    return ws.nn.residual_mlp(depth, WIDTH, ws.nn.Nonlinearity.LINEAR, inputs=WIDTH, classes=WIDTH)


NETS = {"plain": plain, "residual": residual}


def rest(net: str, depth: int, method: str) -> dict[str, Any]:
    """Relax until nothing moves, and compare with autograd, layer by layer."""
    torch.manual_seed(depth)
    chain = ws.Chain(NETS[net](depth).double(), half_squares)
    x, target = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    stop = ws.Stop(max_ticks=400_000, tol=1e-11, every=50)
    sol = ws.relax(chain, x, target, METHODS[method], stop=stop)
    return {
        "converged": sol.outcome.converged,
        "ticks": sol.ticks,
        "error": ws.compare(chain, x, target, sol).relative_error,
    }


def measure(size: Size, cells: Cells) -> Findings:
    """Every net, depth and method."""
    rows = [
        {"net": net, "depth": depth, "method": method}
        | cells.get(f"{net} L={depth} {method}", lambda n=net, d=depth, m=method: rest(n, d, m))
        for net in NETS
        for depth in DEPTHS[size]
        for method in METHODS
    ]
    multipliers = [row for row in rows if row["method"] == "PC-ALM"]
    return Findings(
        {
            "worst_error_pc_alm": max(row["error"] for row in multipliers),
            "least_error_pc": min(row["error"] for row in rows if row["method"] == "PC"),
            "share_at_rest": sum(row["converged"] for row in rows) / len(rows),
        },
        {"rests": rows},
    )


def draw(record: Record, path: Path) -> None:
    """Error against depth."""
    figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for net, marker in (("plain", "o"), ("residual", "s")):
        for method, colour in (("PC-ALM", "C0"), ("PC", "C1")):
            rows = [r for r in record.tables["rests"] if (r["net"], r["method"]) == (net, method)]
            axis.loglog(
                [r["depth"] for r in rows], [r["error"] for r in rows], marker + "-", c=colour, label=f"{method}, {net}"
            )
    axis.axhline(1e-8, c="grey", lw=0.8, ls=":")
    depths = sorted({row["depth"] for row in record.tables["rests"]})
    axis.set_xticks(depths, depths)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("depth L")
    axis.set_ylabel("largest relative error of a gradient")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    matplotlib.use("Agg")
    experiment(__file__, measure, draw)

"""C1: at unit rate the dyadic relaxation has backprop's gradient after exactly 2L ticks, and not one tick before."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.plots import CURVES

DEPTHS = {Size.SMALL: (1, 3, 9, 18), Size.FULL: (1, 3, 9, 18, 36, 72)}
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "identity": nn.Identity}
WIDTH, BATCH = 12, 8


def problem(depth: int, activation: str) -> tuple[ws.Chain, Tensor, Tensor]:
    """A random net in float64 with a batch."""
    torch.manual_seed(depth)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), ACTIVATIONS[activation]()) for _ in range(depth)]
    for layer in layers:
        nn.init.xavier_normal_(layer[0].weight, 1.2)
    chain = ws.Chain(nn.Sequential(*layers).double(), nn.MSELoss())
    return chain, torch.randn(BATCH, WIDTH).double(), torch.randn(BATCH, WIDTH).double()


def errors(depth: int, activation: str) -> list[float]:
    """The largest relative error of any parameter's gradient after 0, 1, ..., 2L + 2 ticks."""
    chain, x, target = problem(depth, activation)
    sol = ws.relax(chain, x, target, ws.Dyadic(), schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=0, tol=0))
    found = [ws.compare(chain, x, target, sol).relative_error]
    for _ in range(2 * depth + 2):
        one = ws.Stop(max_ticks=1, tol=0)
        sol = ws.relax(chain, x, target, ws.Dyadic(), schedule=ws.Synchronous(), stop=one, initial=sol.fields)
        found.append(ws.compare(chain, x, target, sol).relative_error)
    return found


def measure(size: Size, cells: Cells) -> Findings:
    """The first tick that is exact, by depth and activation."""
    rows = [
        {
            "depth": depth,
            "activation": name,
            "errors": cells.get(f"L={depth} {name}", lambda d=depth, n=name: errors(d, n)),
        }
        for depth in DEPTHS[size]
        for name in ACTIVATIONS
    ]
    firsts = [next(t for t, error in enumerate(row["errors"]) if error < 1e-12) for row in rows]
    before = [row["errors"][2 * row["depth"] - 1] for row in rows]
    after = [row["errors"][2 * row["depth"]] for row in rows]
    return Findings(
        {
            "ticks_at_depth_9": float(max(f for f, row in zip(firsts, rows, strict=True) if row["depth"] == 9)),
            "largest_ticks_over_2L": max(f / (2 * row["depth"]) for f, row in zip(firsts, rows, strict=True)),
            "smallest_ticks_over_2L": min(f / (2 * row["depth"]) for f, row in zip(firsts, rows, strict=True)),
            "smallest_error_one_tick_before": min(before),
            "largest_error_after_2L": max(after),
        },
        {"errors": rows},
    )


def draw(record: Record, path: Path) -> None:
    """Error against ticks over 2L: a cliff."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    rows = [row for row in record.tables["errors"] if row["activation"] == "tanh"]
    for row, look in zip(rows, CURVES, strict=False):
        ticks = [t / (2 * row["depth"]) for t in range(len(row["errors"]))]
        errors = [max(e, 1e-17) for e in row["errors"]]
        every = max(1, len(ticks) // 12)
        axes.semilogy(ticks, errors, **look, ms=5, lw=1.2, markevery=every, label=f"L = {row['depth']}")
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="ticks / 2L", ylabel="largest relative error of a gradient", title="Exact after 2L ticks (tanh)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

"""C4: the two copies need not start equal; whatever they start from is flushed out after 2L ticks."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.plots import CURVES

DEPTHS = {Size.SMALL: (3, 9), Size.FULL: (3, 9, 27)}
SCALES = (0.0, 1.0, 100.0)  # of the difference between the copies at the start
WIDTH, BATCH = 10, 8


def problem(depth: int) -> tuple[ws.Chain, Tensor, Tensor]:
    """A tanh net in float64."""
    torch.manual_seed(depth)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(depth)]
    chain = ws.Chain(nn.Sequential(*layers).double(), nn.MSELoss())
    return chain, torch.randn(BATCH, WIDTH).double(), torch.randn(BATCH, WIDTH).double()


def errors(depth: int, scale: float) -> list[float]:
    """Error after each tick when x̂ and ẑ start `scale` apart around a random mean."""
    chain, x, target = problem(depth)
    mean = tuple(torch.randn(BATCH, WIDTH).double() for _ in range(depth))
    apart = tuple(scale * torch.randn(BATCH, WIDTH).double() for _ in range(depth))
    copies = [tuple(m + sign * a / 2 for m, a in zip(mean, apart, strict=True)) for sign in (1, -1)]
    fields, found = ws.Fields.from_doubled(*copies), []
    for tick in range(2 * depth + 1):
        stop = ws.Stop(max_ticks=min(tick, 1), tol=0)
        sol = ws.relax(chain, x, target, ws.Dyadic(), schedule=ws.Synchronous(), stop=stop, initial=fields)
        found.append(ws.compare(chain, x, target, sol).relative_error)
        fields = sol.fields
    return found


def measure(size: Size, cells: Cells) -> Findings:
    """Errors by depth and distance of the copies."""
    rows = [
        {"depth": d, "apart": s, "errors": cells.get(f"L={d} apart {s}", lambda d=d, s=s: errors(d, s))}
        for d in DEPTHS[size]
        for s in SCALES
    ]
    unequal = [row for row in rows if row["apart"]]
    return Findings(
        {
            "largest_error_after_2L_from_unequal_copies": max(row["errors"][-1] for row in unequal),
            "smallest_error_one_tick_before": min(row["errors"][-2] for row in unequal),
        },
        {"errors": rows},
    )


def draw(record: Record, path: Path) -> None:
    """Error against tick."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    rows = [row for row in record.tables["errors"] if row["depth"] == 9]
    for row, look in zip(rows, CURVES, strict=False):
        axes.semilogy([max(e, 1e-17) for e in row["errors"]], **look, ms=5, label=f"copies {row['apart']:g} apart")
    axes.set_xticks(range(0, 19, 3))
    axes.set(
        xlabel="tick", ylabel="largest relative error of a gradient", title="Unequal copies are flushed out (L = 9)"
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

"""C2: ticks to convergence fall to 2L as the rate goes to 1, and early layers are the last to be right."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.plots import CURVES, plain_log

RATES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
DEPTH, WIDTH, BATCH, GOAL = 9, 32, 16, 1e-4
SEEDS = {Size.SMALL: 1, Size.FULL: 5}
SHOWN_TICKS = {0.5: 40, 0.9: 22}


def problem(activation: str, seed: int) -> tuple[ws.Chain, Tensor, Tensor]:
    """Nine layers in float64."""
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), ACTIVATIONS[activation]()) for _ in range(DEPTH)]
    for layer in layers:
        nn.init.xavier_normal_(layer[0].weight, 1.2)
    chain = ws.Chain(nn.Sequential(*layers).double(), nn.MSELoss())
    return chain, torch.randn(BATCH, WIDTH).double(), torch.randn(BATCH, WIDTH).double()


def by_tick(activation: str, seed: int, rate: float) -> Iterator[ws.diagnostics.Comparison]:
    """Fidelity after 1, 2, ... ticks from silence."""
    chain, x, target = problem(activation, seed)
    fields = None
    while True:
        stop = ws.Stop(max_ticks=1, tol=0)
        sol = ws.relax(chain, x, target, ws.Dyadic(rate), schedule=ws.Synchronous(), stop=stop, initial=fields)
        yield ws.compare(chain, x, target, sol)
        fields = sol.fields


def ticks_needed(activation: str, seed: int, rate: float) -> int:
    """The first tick at which every gradient is as near as the goal."""
    fidelities = enumerate(by_tick(activation, seed, rate), start=1)
    return next(tick for tick, fidelity in fidelities if fidelity.relative_error < GOAL)


def measure(size: Size, cells: Cells) -> Findings:
    """Ticks by rate, and fidelity by layer."""
    rows = [
        {
            "activation": name,
            "rate": rate,
            "ticks": cells.get(f"{name} rate {rate} seed {seed}", lambda n=name, r=rate, s=seed: ticks_needed(n, s, r)),
        }
        for name in ACTIVATIONS
        for rate in RATES
        for seed in range(SEEDS[size])
    ]
    layers = [
        {"rate": rate, "errors": cells.get(f"layers at rate {rate}", lambda r=rate, t=ticks: weights(r, t))}
        for rate, ticks in SHOWN_TICKS.items()
    ]
    figures = {f"ticks_at_rate_{rate}": max(row["ticks"] for row in rows if row["rate"] == rate) for rate in RATES}
    figures["first_over_last_layer_error"] = layers[0]["errors"][0] / layers[0]["errors"][-1]
    return Findings(figures, {"ticks": rows, "layers": layers})


def weights(rate: float, ticks: int) -> list[float]:
    """Relative error of each layer's weight, from the first to the last."""
    rows = next(islice(by_tick("tanh", 0, rate), ticks - 1, None)).rows
    return [row.relative_error for row in rows if row.name.endswith("weight")]


def draw(record: Record, path: Path) -> None:
    """Ticks against rate; error against layer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for name, marker in zip(ACTIVATIONS, "ox", strict=True):
        rows = [row for row in record.tables["ticks"] if row["activation"] == name]
        rates, ticks = [row["rate"] for row in rows], [row["ticks"] for row in rows]
        left.loglog(rates, ticks, marker=marker, linestyle="", label=name)
    left.axhline(2 * DEPTH, color="grey", linestyle=":", linewidth=0.8)
    left.set(xlabel="rate", ylabel=f"ticks to a relative error of {GOAL}", title=f"L = {DEPTH}; the line is 2L")
    left.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    left.set_xticks([], minor=True)
    plain_log(left)
    left.legend(frameon=False)
    for row, look in zip(record.tables["layers"], CURVES, strict=False):
        label = f"rate {row['rate']}, {SHOWN_TICKS[row['rate']]} ticks"
        right.semilogy(range(1, DEPTH + 1), row["errors"], **look, label=label)
    right.set(xlabel="layer", ylabel="relative error of its weight's gradient", title="early layers come last")
    right.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

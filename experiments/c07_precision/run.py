"""C7: where exact recovery of the gradient degrades: format × rate × depth, and what loss scaling mends."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, log10
from pathlib import Path
from typing import Any, final

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment

WIDTH, BATCH = 32, 16
DEPTHS = {Size.SMALL: (3, 9, 18), Size.FULL: (3, 9, 18, 36)}
RATES = {Size.SMALL: (1.0, 0.9, 0.5, 0.1), Size.FULL: (1.0, 0.99, 0.9, 0.75, 0.5, 0.25, 0.1)}
SCALES = {Size.SMALL: (1.0, 1024.0), Size.FULL: (1.0, 64.0, 1024.0, 65536.0)}
FP8 = {"float8 e4m3": torch.float8_e4m3fn, "float8 e5m2": torch.float8_e5m2}
COMPUTED = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = (*COMPUTED, *FP8)
GOOD = 1e-2


@final
@dataclass(frozen=True)
class Stored(ws.dynamics.Dynamics):
    """A dynamics whose fields are kept in eight bits and computed with in float32.

    Args:
        inner: how fields move.
        dtype: how they are kept; what is too large for it becomes its largest number.
    """

    inner: ws.dynamics.Dynamics
    dtype: torch.dtype

    def kept(self, field: Tensor) -> Tensor:
        """There and back again."""
        largest = torch.finfo(self.dtype).max
        return field.clamp(-largest, largest).to(self.dtype).to(field.dtype)

    def state(self, view: ws.extend.View) -> Tensor:
        """The inner move, rounded."""
        return self.kept(self.inner.state(view))

    def costate(self, view: ws.extend.View) -> Tensor:
        """The inner move, rounded."""
        return self.kept(self.inner.costate(view))

    def credit(self, view: ws.extend.View) -> Tensor:
        """As the inner dynamics."""
        return self.inner.credit(view)

    @property
    def character(self) -> ws.dynamics.Character:
        """As the inner dynamics."""
        return self.inner.character

    def start(self, outputs: Sequence[Tensor]) -> ws.Fields:
        """As the inner dynamics."""
        return self.inner.start(outputs)

    @property
    def automatic(self) -> bool:
        """False."""
        return False

    def calibrated(self, linearised: Any) -> ws.dynamics.Dynamics:
        """Itself."""
        return self

    @property
    def settles_at_once(self) -> bool:
        """As the inner dynamics."""
        return self.inner.settles_at_once

    def tolerance(self, precision: float) -> float:
        """As the inner dynamics."""
        return self.inner.tolerance(precision)

    def budget(self, depth: int) -> int:
        """As the inner dynamics."""
        return self.inner.budget(depth)


def network(depth: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A tanh net that keeps the size of what passes through, in float64, with data."""
    torch.manual_seed(depth)
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        linear = nn.Linear(WIDTH, WIDTH)
        nn.init.orthogonal_(linear.weight, 1.1)
        layers.append(nn.Sequential(linear, nn.Tanh()))
    module = nn.Sequential(*layers, nn.Linear(WIDTH, 10)).double()
    return module, torch.randn(BATCH, WIDTH).double(), torch.randint(10, (BATCH,))


def autograd(module: nn.Module, x: Tensor, target: Tensor, scale: float) -> dict[str, Tensor]:
    """End-to-end gradients, unscaled, in float64."""
    module.zero_grad()
    (scale * nn.functional.cross_entropy(module(x), target)).backward()
    return {name: p.grad.double() / scale for name, p in module.named_parameters()}


def relaxed(module: nn.Sequential, x: Tensor, target: Tensor, scale: float, rate: float, fmt: str) -> dict[str, Tensor]:
    """Gradients after three times the ticks in which the mean signal makes the round trip, unscaled, in float64."""

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return scale * nn.functional.cross_entropy(output, wanted)

    dynamics: ws.dynamics.Dynamics = ws.Dyadic(rate)
    if fmt in FP8:
        dynamics = Stored(dynamics, FP8[fmt])
    ticks = 2 * len(module) if rate == 1 else ceil(3 * (2 * len(module) + 10) / rate)
    stop = ws.Stop(max_ticks=ticks)
    sol = ws.relax(ws.Chain(module, loss), x, target, dynamics, schedule=ws.Synchronous(), stop=stop)
    if sol.outcome.status is ws.Status.DIVERGED:
        return {}
    return {name: gradient.double() / scale for name, gradient in sol.gradients().items()}


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[float]:
    """Relative error of each layer's weight, from the input side; 1 where nothing usable is left."""
    rows = []
    for name, gradient in wanted.items():
        if name.endswith("weight"):
            error = float((found[name] - gradient).norm() / gradient.norm()) if name in found else 1.0
            rows.append(min(error, 1.0) if isfinite(error) else 1.0)
    return rows


def cell(fmt: str, depth: int, rate: float, scale: float) -> dict[str, Any]:
    """Errors by layer against float64 autograd, of the relaxation and of autograd in the same format."""
    module, x, target = network(depth)
    wanted = autograd(module, x, target, 1.0)
    dtype = COMPUTED.get(fmt, torch.float32)
    module, x = module.to(dtype), x.to(dtype)
    plain = errors(autograd(module, x, target, scale), wanted)
    return {"errors": errors(relaxed(module, x, target, scale, rate, fmt), wanted), "autograd": plain}


def measure(size: Size, cells: Cells) -> Findings:
    """One map per format, and thresholds."""
    rows: list[dict[str, Any]] = []
    for fmt in FORMATS:
        for depth in DEPTHS[size]:
            for rate in RATES[size]:
                for scale in SCALES[size]:
                    key = f"{fmt} L={depth} eta={rate} scale={scale:g}"
                    found = cells.get(key, lambda f=fmt, d=depth, r=rate, s=scale: cell(f, d, r, s))
                    rows.append({"format": fmt, "depth": depth, "rate": rate, "scale": scale, **found})

    def worst(fmt: str, rate: float, depth: int = 9, *scales: float) -> float:
        kept = [r for r in rows if (r["format"], r["rate"], r["depth"]) == (fmt, rate, depth)]
        return min(max(r["errors"]) for r in kept if r["scale"] in (scales or SCALES[size]))

    figures = {f"error {fmt} L=9 rate 1": worst(fmt, 1.0) for fmt in FORMATS}
    figures |= {f"error {fmt} L=9 rate 0.5": worst(fmt, 0.5) for fmt in FORMATS}
    figures |= {f"error {fmt} L=9 rate 1 unscaled": worst(fmt, 1.0, 9, 1.0) for fmt in (*FP8, "float16")}
    slowest = {fmt: min([r for r in RATES[size] if worst(fmt, r) <= GOOD], default=float("inf")) for fmt in FORMATS}
    figures |= {f"slowest rate within 1 % {fmt}": rate if isfinite(rate) else 9.0 for fmt, rate in slowest.items()}
    figures["excess over autograd in the same format, rate 1"] = max(
        max(r["errors"]) / max(*r["autograd"], 1e-300)
        for r in rows
        if r["rate"] == 1 and r["format"] in ("float32", "bfloat16", "float16") and r["scale"] == max(SCALES[size])
    )
    return Findings(figures, {"cells": rows})


def _shade(rows: Sequence[dict[str, Any]], depth: int, rate: float) -> float:
    """The worst layer's error with the best loss scale, as a power of ten."""
    found = [max(row["errors"]) for row in rows if (row["depth"], row["rate"]) == (depth, rate)]
    return log10(max(min(found), 1e-16))


def draw(record: Record, path: Path) -> None:
    """Maps of the worst layer with the best loss scale, and the layers of the nine-layer net."""
    rows = record.tables["cells"]
    depths, rates = (sorted({row[key] for row in rows}) for key in ("depth", "rate"))
    figure, panels = plt.subplots(2, 6, figsize=(14, 5.4), layout="constrained", height_ratios=(1, 1.2))
    for fmt, above, below in zip(FORMATS, panels[0], panels[1], strict=True):
        kind = [row for row in rows if row["format"] == fmt]
        grid = [[_shade(kind, depth, rate) for rate in rates] for depth in depths]
        image = above.imshow(grid, vmin=-16, vmax=0, cmap="viridis_r", aspect="auto", origin="lower")
        digits = 1 if len(rates) < 5 else 0
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                colour = "white" if value > -6 else "black"
                above.text(x, y, f"{value:.{digits}f}", ha="center", va="center", color=colour, fontsize=8)
        above.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], fontsize=7)
        above.set_yticks(range(len(depths)), depths)
        above.set(title=fmt, xlabel="rate η")
        above.grid(visible=False)
        for rate, scale, style in ((1.0, 1.0, "-"), (1.0, 1024.0, "--"), (0.5, 1024.0, ":")):
            (row,) = [r for r in rows if (r["format"], r["depth"], r["rate"], r["scale"]) == (fmt, 9, rate, scale)]
            layers = range(1, len(row["errors"]) + 1)
            below.semilogy(layers, [max(e, 1e-16) for e in row["errors"]], style, label=f"η={rate:g}, loss × {scale:g}")
        below.set(ylim=(1e-16, 2), xlabel="layer", xticks=(1, 3, 5, 7, 9))
    panels[0][0].set_ylabel("depth")
    panels[1][0].set_ylabel("relative error, L = 9")
    panels[1][0].legend(frameon=False, fontsize=7)
    figure.colorbar(image, ax=list(panels[0]), label="log₁₀ error, worst layer")
    figure.savefig(path, dpi=85)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

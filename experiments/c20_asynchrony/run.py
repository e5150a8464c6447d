"""Which messages may be late: dyadic is exact in any order, the others keep their fixed point or lose it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, pi, sin, sqrt
from pathlib import Path
from typing import Any, final

import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment

DOUBLE = torch.float64


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def net(depth: int, width: int, seed: int) -> tuple[ws.Chain, Tensor, Tensor]:
    """A chain of tanh layers that contracts a little, so that every dynamics has a fixed point within reach."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width).to(DOUBLE)
        with torch.no_grad():
            linear.weight.copy_(0.6 / sqrt(width) * torch.randn(width, width, generator=generator, dtype=DOUBLE))
            linear.bias.zero_()
        layers.append(nn.Sequential(linear, nn.Tanh()))
    x, target = torch.randn(2, 8, width, generator=generator, dtype=DOUBLE)
    return ws.Chain(nn.Sequential(*layers), half_squares), x, target


@final
@dataclass(frozen=True)
class Reckless(ws.substrates.Substrate):
    """A dynamics that does not say how late its own costate may be, so that what it does then can be seen."""

    def arrived(self, message: Tensor, view: ws.extend.View) -> Tensor:
        return message

    @property
    def character(self) -> ws.dynamics.Character:
        return replace(self.inner.character, patience=None)


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


LATE: dict[str, Callable[[ws.schedules.Schedule], ws.schedules.Schedule]] = {
    "nothing late": lambda inner: inner,
    "random order": lambda inner: ws.Asynchronous(generator()),
    "states from below 1 tick": lambda inner: ws.schedules.Late(inner, ws.schedules.Delays(below=1)),
    "credit from above 1 tick": lambda inner: ws.schedules.Late(inner, ws.schedules.Delays(above=1)),
    "point of the pull-back 1 tick": lambda inner: ws.schedules.Late(inner, ws.schedules.Delays(point=1)),
    "own costate 1 tick": lambda inner: ws.schedules.Late(inner, ws.schedules.Delays(own=1)),
    "own costate 2 ticks": lambda inner: ws.schedules.Late(inner, ws.schedules.Delays(own=2)),
    "all that travels 1 tick": lambda inner: ws.schedules.Late(inner, 1),
    "all that travels 0 to 3, any order": lambda inner: ws.Asynchronous(generator(), 3),
    "half of the sites 4 times slower": lambda inner: ws.schedules.Slow(inner, {1, 3}, 4),
}
DYNAMICS: dict[str, ws.dynamics.Dynamics] = {
    "dyadic": ws.Dyadic(),
    "dyadic, rate 0.5": ws.Dyadic(0.5),
    "wave": ws.Wave(0.7, 1.0, 0.8, limit=inf),
    "pc": ws.PredictiveCoding(0.2),
    "pc-alm": ws.AugmentedLagrangian(0.2),
}
GRID = {Size.SMALL: (5, 10, 20, 40, 80, 160, 320), Size.FULL: (5, 10, 20, 40, 80, 160, 320, 640, 1280)}


def own_order(dynamics: ws.dynamics.Dynamics) -> ws.schedules.Schedule:
    leads = dynamics.character.leads
    return ws.Synchronous() if leads is None else ws.Leapfrog(leads)


def gradients(
    net: tuple[ws.Chain, Tensor, Tensor], dynamics: ws.dynamics.Dynamics, order: ws.schedules.Schedule, ticks: int
) -> Tensor:
    sol = ws.relax(*net, Reckless(dynamics), schedule=order, stop=ws.Stop(max_ticks=ticks))
    if sol.outcome.status is ws.Status.DIVERGED:
        return torch.full((1,), float("nan"), dtype=DOUBLE)
    return torch.cat([gradient.flatten() for gradient in sol.gradients().values()])


def curve(
    dynamics: ws.dynamics.Dynamics, late: Callable[[ws.schedules.Schedule], ws.schedules.Schedule], size: Size
) -> list[float | None]:
    """The error of the gradient against the dynamics' own fixed point, tick by tick; None once it has overflowed."""
    problem = net(4 if size is Size.SMALL else 8, 6, seed=0)
    rest = gradients(problem, dynamics, own_order(dynamics), 3000)
    found: list[float | None] = []
    for ticks in GRID[size]:
        now = gradients(problem, dynamics, late(own_order(dynamics)), ticks)
        error = float((now - rest).norm() / rest.norm()) if len(now) == len(rest) else float("nan")
        found.append(error if error < 1e30 else None)
    return found


def any_order(trials: int) -> dict[str, float]:
    """Dyadic fields under random orders, delays and slow sites against the wavefront's, on random chains."""
    worst, most = 0.0, 0
    for seed in range(trials):
        draw = generator(seed)
        depth, delay, every = (
            int(torch.randint(low, high, (), generator=draw)) for low, high in ((1, 9), (0, 6), (1, 5))
        )
        problem = net(depth, 4, seed)
        order = ws.schedules.Slow(ws.Asynchronous(draw, delay), 0.5, every, draw)
        exact, found = ws.relax(*problem), ws.relax(*problem, schedule=order)
        pairs = zip(exact.states + exact.costates, found.states + found.costates, strict=True)
        worst = max(worst, *(float((a - b).abs().max()) for a, b in pairs))
        most = max(most, found.ticks)
    return {"worst": worst, "most": most}


def critical(depth: int, late: int) -> float:
    """The α beyond which errors grow, by bisection: unit layers, a linear loss, η = ρ = 1 over a single hidden site."""
    layers = [nn.Linear(1, 1, bias=False, dtype=DOUBLE) for _ in range(depth)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    chain = ws.Chain(nn.Sequential(*layers), lambda output, target: (output * target).sum())
    one = torch.ones(1, 1, dtype=DOUBLE)
    rate = 1.0 if depth == 2 else 0.25
    order = ws.schedules.Late(ws.Leapfrog(ws.extend.Field.COSTATE), ws.schedules.Delays(own=late))

    def error(alpha: float, ticks: int) -> float:
        dynamics = Reckless(ws.AugmentedLagrangian(rate, alpha))
        sol = ws.relax(chain, one, one, dynamics, schedule=order, stop=ws.Stop(max_ticks=ticks))
        return max(float((costate - 1).abs().max()) for costate in sol.costates)

    low, high = 0.0, 1.99
    ticks = 120 if depth == 2 else 240
    for _ in range(8):
        middle = (low + high) / 2
        grows = error(middle, 2 * ticks) > max(error(middle, ticks), 1e-12)
        low, high = (low, middle) if grows else (middle, high)
    return low


def bound(late: int) -> float:
    return 2 * sin(pi / (2 * (2 * late + 1)))


def measure(size: Size, cells: Cells) -> Findings:
    rows: list[dict[str, Any]] = []
    for name, dynamics in DYNAMICS.items():
        for late, order in LATE.items():
            errors = cells.get(f"{name}: {late}", lambda d=dynamics, o=order: curve(d, o, size))
            last = errors[-1]
            verdict = "diverges" if last is None or last > 1 else "keeps" if last < 1e-4 else "lingers"
            rows.append({"dynamics": name, "late": late, "errors": errors, "verdict": verdict})
    exactness = cells.get("any order", lambda: any_order(40 if size is Size.SMALL else 400))
    delays = (0, 1, 2, 3) if size is Size.SMALL else (0, 1, 2, 3, 4, 6)
    bounds = [
        {
            "delay": late,
            "formula": bound(late),
            "one_site": cells.get(f"bound {late}", lambda t=late: critical(2, t)),
            "chain": cells.get(f"bound of a chain {late}", lambda t=late: critical(4, t)),
        }
        for late in delays
    ]
    kept = {(row["dynamics"], row["late"]): row["verdict"] == "keeps" for row in rows}
    figures = {
        "dyadic_any_order_error": exactness["worst"],
        "dyadic_any_order_most_ticks": exactness["most"],
        "delay_bound_worst_deviation": max(abs(b["one_site"] / b["formula"] - 1) for b in bounds),
        "dyadic_combinations_kept": sum(kept["dyadic", late] for late in LATE),
        "pc_alm_stale_own_costate_kept": float(kept["pc-alm", "own costate 2 ticks"]),
        "pc_alm_old_states_from_below_kept": float(kept["pc-alm", "states from below 1 tick"]),
    }
    return Findings(figures=figures, tables={"ticks": list(GRID[size]), "rows": rows, "bounds": bounds})


def draw(record: Record, path: Path) -> None:
    figure = Figure(figsize=(12, 6.6), dpi=80, layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    ticks = record.tables["ticks"]
    for panel, name in zip(axes, DYNAMICS, strict=False):
        for number, row in enumerate(row for row in record.tables["rows"] if row["dynamics"] == name):
            points = [(t, max(e, 1e-16)) for t, e in zip(ticks, row["errors"], strict=True) if e is not None]
            style, marker = "-" if number < 5 else "--", "os^DvPX<>*"[number % 10]
            panel.plot(*zip(*points, strict=True), style, marker=marker, ms=4, label=row["late"])
        panel.set(xscale="log", yscale="log", ylim=(1e-16, 1e4), title=name, xlabel="ticks")
        panel.grid(alpha=0.25)
    for panel in (axes[0], axes[3]):
        panel.set_ylabel("error of the gradient")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    bounds = record.tables["bounds"]
    delays = [row["delay"] for row in bounds]
    axes[5].plot(delays, [row["formula"] for row in bounds], "k-", label="2 sin(π/(2(2τ + 1)))")
    axes[5].plot(delays, [row["one_site"] for row in bounds], "o", label="one hidden site, ηρσ² = 1")
    axes[5].plot(delays, [row["chain"] for row in bounds], "s", label="chain of 4, η = 1/4")
    axes[5].plot(delays[1:], [1 / late for late in delays[1:]], "k:", label="1/τ, slow modes")
    axes[5].set(title="PC-ALM: largest α", xlabel="delay τ of a site's own costate")
    axes[5].legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

"""The Hamiltonian Sign Flip tracks references from initial data only; against Riccati on a linear-quadratic problem."""

import math
import sys
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet import streaming
from worldsheet.streaming import Functional, PeriodicFlip, Plain, Quadratic, Squared, TrackFlip
from worldsheet_lab.plots import CURVES

sys.path.insert(0, str(Path(__file__).parent))  # the parts of this experiment

import lq
import neural
import tracking

WINDOW = 4 * math.pi  # a period of the sinusoid
HARD = {
    "m = r = 0.1, r_w = 1": Functional(Squared(100.0), Quadratic(weights=1.0), mass=0.1),
    "m = r_w = 1, r = 0.1 on states": Functional(Squared(100.0), Quadratic(states=0.1), mass=1.0),
    "m = r_w = 1, r = 0.1 on weights": Functional(Squared(100.0), Quadratic(weights=0.1), mass=1.0),
}
PLANTS = [-1.0, -0.5, 0.5]
BOUNDS = [0.01, 0.05, 0.2, 1.0]
RADII = [1e-4, 1e-3, 1e-2]


def measure(size: Size, cells: Cells) -> Findings:
    """Linear-quadratic costs over the optimum, and tracking errors."""
    periods = 2 if size is Size.SMALL else 6
    costs = [cells.get(f"lq a={a:g}", partial(linear_quadratic, a)) for a in PLANTS]
    sine = {
        f"c = {c:g}/s": cells.get(f"sine c={c:g}", partial(sinusoid, periods, speed=c)) for c in (10.0, 50.0, 200.0)
    }
    sine["c = 50/s, no self-loops"] = cells.get("sine no loops", partial(sinusoid, periods, self_loops=False))
    sine["c = 50/s, m / 4"] = cells.get("sine light", partial(sinusoid, periods, mass=0.00125))
    sine["c = 50/s, r_w = 0.001"] = cells.get("sine decay", partial(sinusoid, periods, decay=0.001))
    sine["c = 50/s, θ = 100/s, m / 5"] = cells.get("sine damped", partial(sinusoid, periods, mass=0.001, theta=100.0))
    sine["c = 200/s, θ = 200/s, m / 10"] = cells.get(
        "sine fast", partial(sinusoid, periods, speed=200.0, mass=0.0005, theta=200.0)
    )
    hard = {}
    for name, functional in HARD.items():
        hard[name] = cells.get(f"hard {name}", partial(patched, functional, 12.0 * periods))
    tracks = {}
    for radius in RADII:
        sign = TrackFlip(streaming.costate_within(radius))
        tracks[f"track ‖π‖ ≤ {radius:g}"] = cells.get(f"sine track {radius:g}", partial(sinusoid, 2, sign=sign))
    for period in (0.2, 0.05, 0.0125):
        sign = PeriodicFlip(period, plain=0.25)
        tracks[f"s = +1 for ¼ of {period:g} s"] = cells.get(
            f"sine periodic {period:g}", partial(sinusoid, 2, sign=sign)
        )
    plain = cells.get("sine plain", partial(sinusoid, periods, sign=Plain()))
    forward = cells.get("neural, two neurons", partial(neural.tracked, 6.0, 0))
    a = PLANTS.index(-0.5)
    figures = {
        "lq_flipped_cost": costs[a]["flipped"],
        "lq_fast_flips_cost": costs[a]["periodic"][-1],
        "lq_slow_flips_cost": costs[a]["periodic"][0],
        "lq_tight_track_cost": costs[a]["track"][0],
        "lq_riccati_cost": costs[a]["riccati"],
        "lq_unstable_flipped_over_track": costs[2]["flipped"] / costs[2]["track"][0],
        "sine_error_c_10": sine["c = 10/s"]["errors"][-1],
        "sine_error_c_50": sine["c = 50/s"]["errors"][-1],
        "sine_error_c_200": sine["c = 200/s"]["errors"][-1],
        "sine_error_tight_track": tracks[f"track ‖π‖ ≤ {RADII[0]:g}"]["errors"][-1],
        "sine_error_loose_track": tracks[f"track ‖π‖ ≤ {RADII[-1]:g}"]["errors"][-1],
        "sine_error_fast_flips": tracks["s = +1 for ¼ of 0.0125 s"]["errors"][-1],
        "plain_diverged": float(plain["status"] == "diverged"),
        "hard_error": min(row["errors"][-1] for row in hard.values()),
        "neural_error": forward["errors"][-1] if forward["errors"] else math.nan,
    }
    if size is Size.FULL:
        figures |= {f"creep_{name}": row["errors"][-1] / row["errors"][1] for name, row in sine.items()}
    drawn = min(hard, key=lambda name: hard[name]["errors"][-1])
    tables = {
        "lq": costs,
        "sine": [kept(n, row, n == "c = 50/s") for n, row in [*sine.items(), ("plain", plain)]],
        "hard": [kept(n, row, n == drawn) for n, row in hard.items()],
        "policies": [kept(n, row, False) for n, row in tracks.items()],
        "neural": [forward],
    }
    return Findings(figures=figures, tables=tables)


def kept(name: str, row: dict[str, Any], drawn: bool) -> dict[str, Any]:
    """A row of a table, with its curves if they are drawn."""
    return {"name": name, **(row if drawn else {key: row[key] for key in ("status", "errors", "flips")})}


def linear_quadratic(a: float) -> dict[str, Any]:
    """Costs over the best one, for every policy; those that diverge count as a million."""
    return {
        "a": a,
        "flipped": min(lq.flipped(a, 1.0, 0.0), 1e6),
        "periodic": [min(lq.flipped(a, period, 0.5), 1e6) for period in lq.PERIODS],
        "track": [min(lq.tracked(a, bound), 1e6) for bound in BOUNDS],
        "riccati": lq.riccati(a),
    }


def sinusoid(
    periods: int,
    speed: float = 50.0,
    mass: float = 0.005,
    decay: float = 0.0,
    theta: float = 20.0,
    sign: streaming.SignPolicy | None = None,
    self_loops: bool = True,
) -> dict[str, Any]:
    """Track 0.6 sin(t/2)."""
    functional = Functional(Squared(1.0), Quadratic(weights=decay), mass, theta)
    network = tracking.network(functional, speed, sign, self_loops=self_loops)
    outcome, trace = tracking.track(network, tracking.sinusoid, periods * WINDOW)
    return tracking.summary(outcome, trace, tracking.sinusoid, WINDOW)


def patched(functional: Functional, seconds: float) -> dict[str, Any]:
    """Track the hard signal with θ = 20/s and c = 50/s."""
    outcome, trace = tracking.track(tracking.network(functional), tracking.patched, seconds)
    return tracking.summary(outcome, trace, tracking.patched, 24.0)


def draw(record: Record, path: Path) -> None:
    """The two signals with their energies, and the linear-quadratic costs."""
    figure = Figure(figsize=(11, 6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    (top, middle, costs), (energy, hard_energy, drift) = figure.subplots(2, 3)
    sine = next(row for row in record.tables["sine"] if row["name"] == "c = 50/s")
    hard = min(record.tables["hard"], key=lambda row: row["errors"][-1])
    panels = ((top, energy, sine, "0.6 sin(t/2)"), (middle, hard_energy, hard, f"patched, {hard['name']}"))
    for axes, below, row, title in panels:
        first = 0 if row is sine else -300
        times = row["times"][first:]
        axes.plot(times, row["target"][first:], color="0.5", lw=3, alpha=0.5, label="reference")
        axes.plot(times, row["output"][first:], lw=1, label="output neuron")
        axes.set(title=title, ylim=(-1.1, 1.1))
        below.plot(times, row["lagrangian"][first:], lw=1, label="Lagrangian / φ")
        below.plot(times, row["hamiltonian"][first:], "--", lw=1, label="Hamiltonian / φ")
        below.set(xlabel="time (s)")
        below.set_yscale("symlog", linthresh=1e-3 if row is sine else 0.1)
        for each in (axes, below):
            each.legend(loc="lower center", bbox_to_anchor=(0.5, -0.02 if each is axes else 1.0), ncols=2, fontsize=8)
    for row in record.tables["lq"][:2]:
        color = f"C{PLANTS.index(row['a'])}"
        frequencies = [1 / period for period in lq.PERIODS]
        costs.loglog(frequencies, row["periodic"], "o-", color=color, label=f"periodic flips, a = {row['a']:g}")
        costs.axhline(row["flipped"], color=color, ls="--", label=f"s = −1, a = {row['a']:g}")
        costs.axhline(row["riccati"], color=color, ls=":", label=f"Riccati turned around, a = {row['a']:g}")
    costs.set(title="cost over the optimum", xlabel="flips to −1 per second")
    costs.legend(frameon=False, fontsize=7)
    ended = [row for row in record.tables["sine"] if row["status"] != "diverged"]
    for row, look in zip(ended, cycle(CURVES), strict=False):
        drift.semilogy(range(1, len(row["errors"]) + 1), row["errors"], **look, ms=4, lw=1, label=row["name"])
    drift.set(title="error over time", xlabel="periods of the sinusoid", ylabel="root mean square")
    drift.legend(fontsize=7, ncols=2, loc="upper center")
    drift.set_ylim(top=1.0)
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

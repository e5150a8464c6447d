"""How far training survives noise, few bits, late messages and sites that are not alike."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.contest.cell import trained
from worldsheet_lab.contest.rivals import LearningRule
from worldsheet_lab.data import load
from worldsheet_lab.plots import CURVES
from worldsheet_lab.recipes import Recipe, recipe_for
from worldsheet_lab.running import threads

on = ws.substrates


class Inner(NamedTuple):
    """A dynamics and its budget in ticks per site; None where it settles by itself."""

    dynamics: ws.dynamics.Dynamics
    ticks: int | None


DYNAMICS = {
    "dyadic": Inner(ws.Dyadic(), None),
    "dyadic, rate 0.3": Inner(ws.Dyadic(0.3), 12),
    "pc": Inner(ws.PredictiveCoding(0.1), 6),
    "pc-alm": Inner(ws.AugmentedLagrangian(0.07), 6),
    "wave": Inner(ws.Wave(), 4),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


Spoilt = Callable[[ws.dynamics.Dynamics, float, int], ws.dynamics.Dynamics]
AXES: dict[str, Spoilt] = {
    "noise over signal": lambda inner, std, seed: on.Noisy(inner, std, generator(seed)),
    "bits": lambda inner, bits, seed: on.Quantised(inner, int(bits)),
    "bits, random rounding": lambda inner, bits, seed: on.Quantised(inner, int(bits), generator(seed)),
    "delay in ticks": lambda inner, ticks, seed: on.Delayed(inner, int(ticks)),
    "mismatch of impedances": lambda inner, error, seed: on.Mismatched(inner, error, generator(seed)),
}
VALUES: dict[Size, dict[str, tuple[float, ...]]] = {
    Size.SMALL: {
        "noise over signal": (0.1, 0.5, 2.0),
        "bits": (2, 3, 4),
        "bits, random rounding": (2,),
        "delay in ticks": (2,),
        "mismatch of impedances": (0.2, 0.4),
    },
    Size.FULL: {
        "noise over signal": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
        "bits": (2, 3, 4, 6, 8),
        "bits, random rounding": (2, 3, 4, 6, 8),
        "delay in ticks": (1, 2, 4),
        "mismatch of impedances": (0.1, 0.2, 0.4, 0.6),
    },
}
SEEDS = {Size.SMALL: 2, Size.FULL: 3}


def recipe(size: Size, seed: int) -> Recipe:
    plain = {"depth": 4, "width": 16, "dropout": 0.0, "compare_every": 20, "lr": 3e-3, "seed": seed, "batch_size": 32}
    train = {"train_size": 256, "epochs": 5} if size is Size.SMALL else {"width": 32, "epochs": 5}
    return recipe_for("digits", {**plain, **train})


def settings(size: Size) -> Iterator[tuple[str, str, float | None]]:
    for name in DYNAMICS:
        yield name, "nothing", None
        for axis, values in VALUES[size].items():
            yield from ((name, axis, value) for value in values)


def train(size: Size, name: str, axis: str, value: float | None, seed: int) -> dict[str, Any]:
    inner = DYNAMICS[name]
    spoilt = inner.dynamics if value is None else AXES[axis](inner.dynamics, value, seed)
    slower = 1 + spoilt.character.delay
    plan = recipe(size, seed)
    budget = None if inner.ticks is None else inner.ticks * plan.depth * slower
    if inner.ticks is None and not spoilt.settles_at_once:
        budget = 12 * plan.depth
    data = load("digits").subset(plan.train_size, None)
    row = trained(plan, data, LearningRule(spoilt, ws.Stop(max_ticks=budget)), lambda: None)
    return {"accuracy": row["accuracy"][-1], "cosine": row["smallest_cosine"], "status": row["status"][:8]}


def measure(size: Size, cells: Cells) -> Findings:
    rows: list[dict[str, Any]] = []
    with threads(1):
        for name, axis, value in settings(size):
            keys = [(f"{name}: {axis} {value} seed {seed}", seed) for seed in range(SEEDS[size])]
            found = [cells.get(key, partial(train, size, name, axis, value, seed)) for key, seed in keys]
            rows.append(
                {
                    "dynamics": name,
                    "axis": axis,
                    "value": value,
                    "accuracies": [cell["accuracy"] for cell in found],
                    "cosine": min((cell["cosine"] for cell in found if cell["cosine"] is not None), default=None),
                    "diverged": sum(cell["status"] != "finished" for cell in found),
                }
            )
    mean = {(row["dynamics"], row["axis"], row["value"]): fmean(row["accuracies"]) for row in rows}
    figures = {}
    for name in DYNAMICS:
        short = name.replace(", ", "_").replace(" ", "_").replace("-", "_").replace(".", "")
        figures[f"{short}_clean"] = 100 * mean[name, "nothing", None]
        figures[f"{short}_noise_half"] = 100 * mean[name, "noise over signal", 0.5]
        figures[f"{short}_3_bits"] = 100 * mean[name, "bits", 3] if (name, "bits", 3) in mean else float("nan")
        figures[f"{short}_delay_2"] = 100 * mean[name, "delay in ticks", 2]
        figures[f"{short}_mismatch_04"] = 100 * mean[name, "mismatch of impedances", 0.4]
    return Findings(figures=figures, tables={"rows": rows})


def draw(record: Record, path: Path) -> None:
    figure = Figure(figsize=(12, 6.2), dpi=80, layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    rows = record.tables["rows"]
    for panel, axis in zip(panels, AXES, strict=False):
        for number, name in enumerate(DYNAMICS):
            own = [row for row in rows if row["dynamics"] == name and row["axis"] in (axis, "nothing")]
            clean = fmean(own[0]["accuracies"])
            spoilt = [row for row in own if row["axis"] == axis]
            values = [row["value"] for row in spoilt]
            look = CURVES[number]
            color = look["color"]
            panel.axhline(clean, color=color, lw=0.7, ls=":")
            panel.plot(values, [fmean(row["accuracies"]) for row in spoilt], **look, ms=5, label=name)
            for row in spoilt:
                panel.plot([row["value"]] * 2, [min(row["accuracies"]), max(row["accuracies"])], color=color, lw=1)
            if panel is not panels[0]:
                panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.set(xlabel=axis, ylim=(0, 1))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        panel.grid(alpha=0.25)
    panels[0].set_xscale("log")
    panels[0].set_ylabel("test images classified correctly")
    panels[3].set_ylabel("test images classified correctly")
    handles, labels = panels[0].get_legend_handles_labels()
    panels[5].axis("off")
    panels[5].legend(handles, labels, frameon=False, loc="center", title="dotted: perfect substrate")
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

"""The result of a comparison: as one JSON object and as tables of at most 80 columns."""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worldsheet.version import __version__
from worldsheet_lab.contest.contest import RuleComparison
from worldsheet_lab.contest.rivals import BACKPROP
from worldsheet_lab.contest.statistics import LEAST, paired
from worldsheet_lab.run_folder import Row


def result_of(contest: RuleComparison, cells: Mapping[tuple[str, int], Row]) -> Row:
    """What all cells have shown; differences are to backprop, paired by seed."""
    seeds = sorted({seed for _, seed in cells})
    own = {name: [cells[name, seed] for seed in seeds] for name in contest.names}
    return {
        "status": "finished",
        "worldsheet": __version__,
        "torch": torch.__version__,
        "recipe": asdict(contest.recipe),
        "seeds": seeds,
        "dynamics": {name: _summary(rows, own[BACKPROP]) for name, rows in own.items()},
    }


def _summary(rows: list[Row], baseline: list[Row]) -> Row:
    accuracies = [row["accuracy"][-1] for row in rows]
    difference = paired(accuracies, [row["accuracy"][-1] for row in baseline])
    times = [(row["seconds_per_step"], base["seconds_per_step"]) for row, base in zip(rows, baseline, strict=True)]
    timed = [(mine, base) for mine, base in times if mine and base]
    smallest = [row["smallest_cosine"] for row in rows if row["smallest_cosine"] is not None]
    return {
        "rule": rows[0]["rule"],
        "accuracy": fmean(accuracies),
        "accuracies": accuracies,
        "curves": [row["accuracy"] for row in rows],
        "difference": difference.mean,
        "half_width": difference.half_width,
        "cosine": {layer: fmean(row["cosine"][layer] for row in rows) for layer in rows[0]["cosine"]},
        "smallest_cosine": min(smallest, default=None),
        "ticks": None if rows[0]["ticks"] is None else fmean(row["ticks"] for row in rows),
        "evaluations_per_layer": fmean(row["evaluations"] for row in rows),
        "pulls_per_layer": fmean(row["pulls"] for row in rows),
        "seconds_per_step": fmean(mine for mine, _ in timed) if timed else None,
        "time_ratio": fmean(mine / base for mine, base in timed) if timed else None,
        "diverged": sum(row["status"] != "finished" for row in rows),
    }


def result_tables(result: Mapping[str, Any]) -> Group:
    """Accuracies and cost of each dynamics, and below them the cosine of every layer."""
    recipe, seeds = result["recipe"], result["seeds"]
    span = f"seeds {seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    network = f"{recipe['architecture']} of {recipe['depth']} sites, width {recipe['width']}"
    epochs = f"{recipe['epochs']} epoch{'s' * (recipe['epochs'] != 1)}"
    headline = f"\n  {recipe['data']}: {network}, {epochs}, {span}"
    parts: list[RenderableType] = [Text(headline), _scores(result), _work(result), Text(_note(len(seeds)))]
    if any(row["cosine"] for row in result["dynamics"].values()):
        parts += [Text("\n  cosine with backprop's gradient, by layer, mean over the run"), _cosines(result)]
    return Group(*parts)


def _scores(result: Mapping[str, Any]) -> Table:
    table = Table("gradients by", box=box.SIMPLE_HEAD)
    for heading in ("test\naccuracy", "difference\nto backprop", "95 %\n±", "smallest\ncosine", "diverged"):
        table.add_column(heading, justify="right")
    for name, row in result["dynamics"].items():
        ours = name != BACKPROP
        table.add_row(
            name,
            f"{row['accuracy']:.2%}",
            f"{100 * row['difference']:+.2f}" if ours else "",
            "" if row["half_width"] is None or not ours else f"{100 * row['half_width']:.2f}",
            "" if row["smallest_cosine"] is None else f"{row['smallest_cosine']:.6f}",
            str(row["diverged"] or ""),
        )
    return table


def _work(result: Mapping[str, Any]) -> Table:
    table = Table("gradients by", box=box.SIMPLE_HEAD)
    for heading in ("ticks", "evaluations\nper layer", "pull-backs\nper layer", "ms per\nstep", "× backprop"):
        table.add_column(heading, justify="right")
    for name, row in result["dynamics"].items():
        seconds, ratio = row["seconds_per_step"], row["time_ratio"]
        table.add_row(
            name,
            "" if row["ticks"] is None else f"{row['ticks']:.0f}",
            f"{row['evaluations_per_layer']:.1f}",
            f"{row['pulls_per_layer']:.1f}",
            "" if seconds is None else f"{1e3 * seconds:.2f}",
            "" if ratio is None else f"{ratio:.2f}",
        )
    return table


def _note(seeds: int) -> str:
    if seeds < LEAST:
        return f"  {seeds} seed{'s' * (seeds != 1)}: too few for an interval, which takes at least {LEAST}"
    return "  differences in points, paired by seed, with Student's 95 % interval of their mean"


def _cosines(result: Mapping[str, Any]) -> Table:
    relaxed = {name: row["cosine"] for name, row in result["dynamics"].items() if row["cosine"]}
    table = Table("layer", box=box.SIMPLE_HEAD)
    for name in relaxed:
        table.add_column(name, justify="right")
    for layer in next(iter(relaxed.values())):
        table.add_row(layer, *(f"{cosines[layer]:.6f}" for cosines in relaxed.values()))
    return table

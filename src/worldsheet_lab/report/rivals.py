"""Learning dynamics side by side: what they reach, how sure that is, and what it costs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from worldsheet_lab.contest.rivals import BACKPROP
from worldsheet_lab.report.panel import Drawing, Figure, Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.runs import CompareRun
from worldsheet_lab.report.style import COLOURS, PALE, SYMBOLS, figure

Rows = Mapping[str, Mapping[str, Any]]
"""What each dynamics has shown, by name."""


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One for each comparison."""
    for run in runs:
        if isinstance(run, CompareRun) and (result := run.result):
            rows: Rows = result["dynamics"]
            seeds = len(result["seeds"])
            drawings = (
                Drawing("Test images classified correctly, a point per seed", _accuracies(rows, result["seeds"])),
                Drawing("Difference to backprop (points of accuracy), paired over seeds", _differences(rows)),
                Drawing("Time of a step over backprop's", _bars(rows, "time_ratio", "× backprop")),
                Drawing("Work of one gradient, per layer", _work(rows)),
            )
            interval = "bars: Student's 95 % interval of the mean" if seeds > 2 else "too few seeds for an interval"
            words = f"{run.about}. All dynamics of a seed have equal starts and batches; {interval}."
            yield Panel(f"compare-{run.label}", f"Side by side, {run.label}", words, drawings)


def _accuracies(rows: Rows, seeds: Sequence[int]) -> Figure:
    made = figure("", "")
    for number, seed in enumerate(seeds):
        values = [row["accuracies"][number] for row in rows.values()]
        kind = number % len(COLOURS)
        marker = {"size": 8, "opacity": 0.7, "color": COLOURS[kind], "symbol": SYMBOLS[kind]}
        made.add_trace(go.Scatter(x=list(rows), y=values, mode="markers", name=f"seed {seed}", marker=marker))
    means = [row["accuracy"] for row in rows.values()]
    mark = {"symbol": "line-ew-open", "size": 26, "color": PALE, "line": {"width": 2}}
    made.add_trace(go.Scatter(x=list(rows), y=means, mode="markers", name="mean", marker=mark))
    made.update_yaxes(tickformat=".3~p")
    return made


def _differences(rows: Rows) -> Figure:
    others = {name: row for name, row in rows.items() if name != BACKPROP}
    means = [100 * row["difference"] for row in others.values()]
    widths = [100 * (row["half_width"] or 0.0) for row in others.values()]
    bar = go.Scatter(
        x=list(others),
        y=means,
        mode="markers",
        marker={"size": 9, "color": COLOURS[0]},
        error_y={"type": "data", "array": widths, "thickness": 1.6, "width": 8},
        hovertemplate="%{x}: %{y:+.2f} points<extra></extra>",
    )
    made = figure("", "points", bar, showlegend=False)
    made.add_hline(y=0, line={"color": PALE, "width": 1, "dash": "dot"})
    return made


def _bars(rows: Rows, part: str, unit: str) -> Figure:
    bar = go.Bar(x=list(rows), y=[row[part] for row in rows.values()], marker={"color": COLOURS[0]})
    return figure("", unit, bar, showlegend=False)


def _work(rows: Rows) -> Figure:
    made = figure("", "per layer", barmode="group")
    named = (("evaluations_per_layer", "evaluations", COLOURS[0]), ("pulls_per_layer", "pull-backs", COLOURS[1]))
    for part, name, colour in named:
        values = [row[part] for row in rows.values()]
        made.add_trace(go.Bar(x=list(rows), y=values, name=name, marker={"color": colour}))
    return made

"""What the stages of a distributed run did when."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from worldsheet.app.evenly import evenly
from worldsheet.app.report.panel import Drawing, Figure, Panel
from worldsheet.app.report.run import Run
from worldsheet.app.report.runs import StagedRun
from worldsheet.app.report.style import COLOURS, PALE, POINTS, curve, figure, left_out, whole_axis
from worldsheet.app.run_folder import Row

DEEDS = 80
"""Deeds of each stage that are drawn."""

_ACTS = {"F": ("forward", COLOURS[0]), "B": ("pull back", COLOURS[1]), "U": ("update", COLOURS[2])}

Timeline = tuple[float, list[tuple[str, float]]]
"""When a segment began and the deeds with the moments at which they were done."""


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One for each run in stages."""
    for run in runs:
        if not isinstance(run, StagedRun):
            continue
        timelines = run.timelines
        rows = [row for row in run.rows if row["kind"] == "segment"]
        drawings = []
        words = "Each process on the clock of this machine, of the last segment."
        if timelines:
            drawings.append(Drawing("What each stage did when", _gantt(timelines), 120 + 44 * len(timelines)))
            most = max(len(deeds) for _, deeds in timelines.values())
            words += (
                " A bar ends when its deed is done and begins when the one before was done, so that waiting for a "
                f"neighbour counts to the deed that waited.{_window(most)}"
            )
        if rows:
            drawings += [_by_segment(rows, "loss", "Training loss (nats per image)"), _throughput(rows)]
            words += left_out(len(rows), len(evenly(len(rows), POINTS)), "segments")
        if drawings:
            yield Panel(f"stages-{run.label}", f"Stages, {run.label}", words, tuple(drawings))


def _window(most: int) -> str:
    return f" {DEEDS} deeds of each stage, from the middle of {most}." if most > DEEDS else ""


def _gantt(timelines: Mapping[int, Timeline]) -> Figure:
    """A bar per deed, a colour per act, a row per stage."""
    made = figure("seconds since the segment began", "", barmode="overlay", bargap=0.3)
    origin = min(begun for begun, _ in timelines.values())
    bars: dict[str, list[tuple[int, float, float, str]]] = {act: [] for act in _ACTS}
    for stage, (begun, deeds) in timelines.items():
        starts = [begun, *(moment for _, moment in deeds)]
        first = max(0, (len(deeds) - DEEDS) // 2)
        for (name, end), start in list(zip(deeds, starts, strict=False))[first : first + DEEDS]:
            bars[name[0]].append((stage, start - origin, end - start, name))
    for act, found in bars.items():
        name, colour = _ACTS[act]
        stages, begin, took, deeds_named = zip(*found, strict=True) if found else ((), (), (), ())
        made.add_trace(
            go.Bar(
                base=np.array(begin),
                x=np.array(took),
                y=[f"stage {stage}" for stage in stages],
                customdata=list(deeds_named),
                orientation="h",
                name=name,
                marker={"color": colour, "line": {"color": PALE, "width": 0.5}},
                hovertemplate="%{y}, %{customdata}: from %{base:.4f} s<extra></extra>",
            )
        )
    made.update_yaxes(categoryorder="array", categoryarray=[f"stage {stage}" for stage in timelines])
    return made


def _by_segment(rows: Sequence[Row], part: str, title: str) -> Drawing:
    shown = [rows[row] for row in evenly(len(rows), POINTS)]
    line = curve([row["segment"] for row in shown], [row[part] for row in shown], part, COLOURS[0])
    made = figure("segment", "", line, showlegend=False)
    made.update_traces(mode="lines+markers")
    whole_axis(made, len(rows))
    return Drawing(title, made)


def _throughput(rows: Sequence[Row]) -> Drawing:
    drawing = _by_segment(rows, "samples_per_s", "Throughput (samples per second)")
    drawing.figure.update_yaxes(rangemode="tozero")
    return drawing

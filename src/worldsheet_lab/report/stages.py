"""What the stages of a distributed run did when."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from worldsheet_lab.plots_stages import Note
from worldsheet_lab.report.panel import Drawing, Figure, Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.runs import StagedRun
from worldsheet_lab.report.style import COLOURS, POINTS, curve, figure, left_out, whole_axis
from worldsheet_lab.run_folder import Row
from worldsheet_lab.subsample import subsample

ACTIONS = 80
"""Actions of each stage that are drawn."""

_ACTS = {"F": ("forward", COLOURS[0]), "B": ("pull back", COLOURS[1]), "U": ("update", COLOURS[2])}


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
            drawings.append(Drawing("Share of the segment in which each stage worked", _busy(timelines)))
            most = max(len(notes) for notes in timelines.values())
            words += " Between bars a stage waits for a neighbour." + _window(most)
        if rows:
            drawings += _curves(rows, [row for row in run.rows if row["kind"] == "validation"])
            words += left_out(len(rows), len(subsample(len(rows), POINTS)), "segments")
        if drawings:
            yield Panel(f"stages-{run.label}", f"Stages, {run.label}", words, tuple(drawings))


def _curves(rows: Sequence[Row], judged: Sequence[Row]) -> Iterator[Drawing]:
    """Losses and throughput by segment."""
    yield _by_segment(rows, "loss", f"Training loss (nats per {'character' if judged else 'image'})")
    if judged:
        yield _by_segment(judged, "validation_loss", "Validation loss (nats per character)")
    yield _throughput(rows)


def _window(most: int) -> str:
    """A sentence about the actions that are not drawn."""
    return f" {ACTIONS} actions of each stage, from the middle of {most}." if most > ACTIONS else ""


def _gantt(timelines: Mapping[int, Sequence[Note]]) -> Figure:
    """A bar per action, a colour per kind, a row per stage."""
    made = figure("seconds since the segment began", "", barmode="overlay", bargap=0.3)
    origin = _span(timelines)[0]
    bars: dict[str, list[tuple[int, float, float, str]]] = {act: [] for act in _ACTS}
    for stage, notes in timelines.items():
        first = max(0, (len(notes) - ACTIONS) // 2)
        for action, since, until in notes[first : first + ACTIONS]:
            bars[action[0]].append((stage, since - origin, until - since, action))
    for act, found in bars.items():
        name, colour = _ACTS[act]
        stages, begin, took, named = zip(*found, strict=True) if found else ((), (), (), ())
        made.add_trace(
            go.Bar(
                base=np.array(begin),
                x=np.array(took),
                y=[f"stage {stage}" for stage in stages],
                customdata=list(named),
                orientation="h",
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate="%{y}, %{customdata}: from %{base:.4f} s<extra></extra>",
            )
        )
    made.update_yaxes(categoryorder="array", categoryarray=[f"stage {stage}" for stage in timelines])
    return made


def _span(timelines: Mapping[int, Sequence[Note]]) -> tuple[float, float]:
    """When the first action of any stage began, and when the last one ended."""
    every = [(begin, end) for notes in timelines.values() for _, begin, end in notes]
    return min((begin for begin, _ in every), default=0.0), max((end for _, end in every), default=0.0)


def _busy(timelines: Mapping[int, Sequence[Note]]) -> Figure:
    """Seconds of all its actions over the seconds from the first action of any stage to the last."""
    begin, end = _span(timelines)
    shares = [sum(until - since for _, since, until in notes) / max(end - begin, 1e-9) for notes in timelines.values()]
    bars = go.Bar(x=[f"stage {stage}" for stage in timelines], y=shares, marker={"color": COLOURS[0]})
    made = figure("", "", bars, showlegend=False)
    made.update_yaxes(tickformat=".3~p", range=[0, 1.02])
    return made


def _by_segment(rows: Sequence[Row], part: str, title: str) -> Drawing:
    shown = [rows[row] for row in subsample(len(rows), POINTS)]
    line = curve([row["segment"] for row in shown], [row[part] for row in shown], part, COLOURS[0])
    made = figure("segment", "", line, showlegend=False)
    made.update_traces(mode="lines+markers")
    whole_axis(made, len(rows))
    return Drawing(title, made)


def _throughput(rows: Sequence[Row]) -> Drawing:
    drawing = _by_segment(rows, "samples_per_s", "Throughput (samples per second)")
    drawing.figure.update_yaxes(rangemode="tozero")
    return drawing

"""How good gradients are, layer by layer: over a run, and by the tick at which a relaxation is ended."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import log10

import numpy as np
import plotly.graph_objects as go

from worldsheet_lab.report.panel import Drawing, Figure, Panel
from worldsheet_lab.report.run import Run, sheets_of
from worldsheet_lab.report.runs import CompareRun, TrainRun
from worldsheet_lab.report.style import BAR, COLOURS, RISING, curve, figure, on_canvas, whole_axis, with_legend
from worldsheet_lab.run_folder import Row
from worldsheet_lab.sheets import Sheet

FLOOR = 1e-17
"""Where gradients that were equal to the last bit are drawn on a logarithmic axis."""

_WORDS = (
    "The gradient of every layer against backprop's on the same batch: 0 is the same direction, 1 a right angle. Of a "
    "layer's parameters the worst one counts. At the bottom, apart from the scale: equal to the last bit."
)


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One over the runs, and one by tick."""
    drawings = []
    if lines := list(_layers(runs)):
        made = _by_layer(lines)
        drawings.append(Drawing("1 − cosine with backprop's gradient, by layer", made, with_legend(made)))
    for run in runs:
        if isinstance(run, TrainRun) and (steps := _steps(run.rows)):
            made = _by_step(steps)
            drawings.append(
                Drawing(f"{run.label}: 1 − cosine of every layer while it trained", made, with_legend(made))
            )
    if drawings:
        yield Panel("fidelity", "Fidelity by layer", _WORDS, tuple(drawings))
    maps = {name: sheet for name, sheet in sheets_of(runs).items() if "probes" in sheet and len(sheet["probes"])}
    if maps:
        words = (
            "The relaxation is ended at some ticks and the gradient of each layer compared with backprop's: credit "
            "arrives from the output down. Cosines below 0 have the colour of 0."
        )
        shown = tuple(Drawing(f"{name}: cosine with backprop's gradient", _by_tick(maps[name]), 300) for name in maps)
        yield Panel("arrival", "Fidelity by tick", words, shown)


def _layers(runs: Sequence[Run]) -> Iterator[tuple[str, list[float]]]:
    """1 − cosine of each layer by name, from the input on."""
    for run in runs:
        result = run.result
        if result is None:
            continue
        if isinstance(run, TrainRun) and result["gradients"]:
            worst: dict[str, float] = defaultdict(float)
            for row in result["gradients"]:
                layer = row["name"].split(".")[0]
                worst[layer] = max(worst[layer], row["one_minus_cosine"])
            yield f"{run.label}, worst of {result['comparisons']}", list(worst.values())
        if isinstance(run, CompareRun):
            for name, row in result["dynamics"].items():
                if row["cosine"]:
                    yield f"{run.label}: {name}, mean", [1 - cosine for cosine in row["cosine"].values()]


def _by_layer(lines: Sequence[tuple[str, list[float]]]) -> Figure:
    made = figure("layer, input left, output right", "1 − cosine")
    for number, (name, values) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        layers = np.arange(1, len(values) + 1)
        made.add_trace(curve(layers, np.maximum(values, FLOOR), name, colour, mode="lines+markers"))
    whole_axis(made, max(len(values) for _, values in lines))
    _cosine_axis(made)
    return made


def _steps(rows: Sequence[Row]) -> Mapping[int, list[float]]:
    """1 − cosine of each layer by step; empty where all were equal to the last bit."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["kind"] == "gradients":
            worst: dict[str, float] = defaultdict(float)
            for part in row["parameters"]:
                layer = part["name"].split(".")[0]
                worst[layer] = max(worst[layer], 1 - part["cosine"])
            found[row["step"]] = list(worst.values())
    return found if any(value > 0 for values in found.values() for value in values) else {}


def _by_step(steps: Mapping[int, list[float]]) -> Figure:
    made = figure("step", "1 − cosine")
    columns = np.array(list(steps.values())).T
    for number, values in enumerate(columns):
        colour = COLOURS[number % len(COLOURS)]
        more = {"width": 1.3, "mode": "lines+markers"}
        made.add_trace(curve(list(steps), np.maximum(values, FLOOR), f"layer {number + 1}", colour, **more))
    _cosine_axis(made)
    return made


def _cosine_axis(made: Figure) -> None:
    """From equal to the last bit to a right angle."""
    powers = range(-15, 1, 3)
    made.update_yaxes(
        type="log",
        range=[log10(FLOOR) - 0.5, 0.5],
        tickvals=[FLOOR, *(10.0**power for power in powers)],
        ticktext=["equal", *(f"10<sup>{power}</sup>" if power else "1" for power in powers)],
    )


def _by_tick(sheet: Sheet) -> Figure:
    cosines = sheet["cosines"].T.numpy()
    heat = go.Heatmap(
        x=sheet["probes"].numpy(),
        y=np.arange(1, len(cosines) + 1),
        z=cosines,
        zmin=0,
        zmax=1,
        colorscale=RISING,
        hovertemplate="ended at tick %{x}, layer %{y}: cosine %{z:.6f}<extra></extra>",
        colorbar=BAR,
    )
    return on_canvas(figure("tick at which it ends", "layer", heat))

"""Optimal control: trajectories with what they are worth, while the search goes on, and the waves over time."""

from collections.abc import Iterator, Sequence
from math import nan

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from worldsheet_lab.report.panel import Drawing, Figure, Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.runs import ControlRun
from worldsheet_lab.report.style import (
    COLOURS,
    COLUMNS,
    MOMENTS,
    PALE,
    curve,
    figure,
    left_out,
    log_heat_map,
    on_canvas,
    stride,
)
from worldsheet_lab.subsample import subsample

_WORDS = (
    "Thin lines: the solution; thick lines: the fields at the tick of the slider; dotted: the goal. A costate is what "
    "a small change of its state is worth, in cost per unit of the state; controls hold over their stages. Grey in "
    "the heat maps: at rest."
)


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One for each problem."""
    for run in runs:
        if isinstance(run, ControlRun):
            yield _panel(run)


def _panel(run: ControlRun) -> Panel:
    states, controls = run.names
    end, search, waves = run.trajectory, run.search, run.waves
    times, ticks, axis = end["times"], search["ticks"].tolist(), run.time
    film = subsample(len(ticks), MOMENTS)
    drawings = [
        Drawing("States", _aimed(_curves(times, end["states"], search["states"][film], states), run.goal)),
        Drawing("Costates", _curves(times, end["costates"], search["costates"][film], [f"λ of {n}" for n in states])),
        Drawing("Controls", _curves(times, end["controls"], search["controls"][film], controls)),
        Drawing("Residual of the dynamics by stage, during the search", _plane(times, search, "state_residuals")),
    ]
    if waves is not None:
        drawings += [
            Drawing("Waves of the states after a kick, scalar impedance", _plane(times, waves, "state_residuals")),
            Drawing("Waves of the costates after a kick, scalar impedance", _plane(times, waves, "costate_residuals")),
        ]
    for drawing in drawings:
        drawing.figure.update_xaxes(title={"text": axis})
    words = _WORDS + left_out(len(ticks), len(film), "recorded ticks")
    labels = tuple(f"tick {ticks[row]:g} of {ticks[-1]:g}" for row in film)
    return Panel(f"control-{run.label}", f"Control, {run.label}: {run.about}", words, tuple(drawings), labels)


def _aimed(made: Figure, goal: Sequence[float | None]) -> Figure:
    """With a dotted line at each state's goal, in its colour; states that share one share a grey line."""
    aims = [aim for aim in goal if aim is not None]
    for aim in dict.fromkeys(aims):
        colour = PALE if aims.count(aim) > 1 else COLOURS[goal.index(aim) % len(COLOURS)]
        made.add_hline(y=aim, line={"color": colour, "width": 1.2, "dash": "dot"})
    return made


def _curves(times: Tensor, end: Tensor, film: Tensor, names: Sequence[str]) -> Figure:
    """A thin line where each entry ends, a thick one where it is; controls (N rows) as steps."""
    held = len(end) < len(times)
    made = figure("time", "")
    for number, name in enumerate(names):
        colour, more = COLOURS[number % len(COLOURS)], {"line_shape": "hv"} if held else {}
        group, still = {"legendgroup": name, "mode": "lines+markers", **more}, {"mode": "lines"}
        last = _held(end[:, number], held)
        made.add_trace(
            curve(times.numpy(), last, name, colour, width=1.2, opacity=0.6, showlegend=False, **{**group, **still})
        )
        made.add_trace(curve(times.numpy(), last, name, colour, width=2.4, **group))
    moving = [2 * number + 1 for number in range(len(names))]
    made.frames = [
        go.Frame(
            name=str(row),
            data=[{"type": "scatter", "y": _held(moment[:, number], held)} for number in range(len(names))],
            traces=moving,
        )
        for row, moment in enumerate(film)
    ]
    made.update_yaxes(range=_range(end))
    return made


def _held(values: Tensor, held: bool) -> np.ndarray:
    """A control is drawn to the end of its last stage."""
    found = values.numpy()
    return np.append(found, found[-1] if len(found) else nan) if held else found


def _range(end: Tensor) -> list[float]:
    """Room for the search, which may wander, around where it ends."""
    low, high = float(end.min()), float(end.max())
    room = 0.35 * max(high - low, 1e-3)
    return [low - room, high + room]


def _plane(times: Tensor, rows: dict[str, Tensor], part: str) -> Figure:
    """Time across, ticks upward."""
    step = stride(len(rows["ticks"]), COLUMNS)
    values = rows[part][::step].T
    heat = log_heat_map(times[1 : len(values) + 1].tolist(), values, "time %{x:.3g}, tick %{y}")
    heat.y = rows["ticks"][::step].numpy()
    return on_canvas(figure("time", "tick", heat))

"""Figures of optimal control: trajectories with their costates, the worldsheet over time, and a film of the search."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from worldsheet_lab.plots import AT_REST

_STATE, _COSTATE, _CONTROL, _OLD, _GOAL = "#0072b2", "#d55e00", "#009e73", "0.75", "0.35"
_FRAMES = 60


@final
@dataclass(frozen=True)
class Labels:
    """What the rows of a figure are called: names of states and controls with units, a title, and what states aim at.

    Attributes:
        goal: of each state, None where it is free; empty where none has a goal.
        time: the axis of time, with its unit.
    """

    states: Sequence[str]
    controls: Sequence[str]
    title: str
    goal: Sequence[float | None] = ()
    time: str = "time"


def trajectories(times: Tensor, states: Tensor, costates: Tensor, controls: Tensor, labels: Labels) -> bytes:
    """States (N + 1, n), what each is worth, and the controls (N, m) held over their stages, as PNG."""
    figure, axes = _grid(labels, len(labels.states))
    for number, name in enumerate(labels.states):
        _curve(axes[0][number], times, states[:, number], _STATE, name)
        _aim(axes[0][number], labels, number)
        _curve(axes[1][number], times, costates[:, number], _COSTATE, f"costate of {name}")
    for number, name in enumerate(labels.controls):
        panel = axes[2][number]
        panel.stairs(controls[:, number].numpy(), times.numpy(), baseline=None, color=_CONTROL, lw=1.5)
        panel.set_title(name, fontsize=9)
        panel.grid(alpha=0.25)
    if any(aim is not None for aim in labels.goal):
        figure.supxlabel("dotted: the goal", fontsize=9, color=_GOAL)
    return _png(figure)


def worldsheet(ticks: Sequence[int], residuals: tuple[Tensor, Tensor], end: float, labels: Labels) -> bytes:
    """Norms of state and costate residuals (ticks, N) over time and tick: the waves of a search, as PNG."""
    figure = Figure(figsize=(10, 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(labels.title, fontsize=11)
    panels = figure.subplots(1, 2, sharey=True)
    names = (
        "state residual  $\\Vert F(x_k, u_k) - x_{k+1}\\Vert$",
        "costate residual  $\\Vert H_x - \\lambda_k\\Vert$",
    )
    for axes, values, name in zip(panels, residuals, names, strict=True):
        _sheet(figure, axes, ticks, values, end)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(labels.time)
    panels[0].set_ylabel("tick")
    figure.supxlabel("grey: at rest, the residual is zero to rounding", fontsize=9, color="0.35")
    return _png(figure)


def film(times: Tensor, states: Tensor, costates: Tensor, controls: Tensor, labels: Labels) -> bytes:
    """States (ticks, N + 1, n), costates and controls (ticks, N, m) while they relax, as an animated GIF."""
    count = len(states)
    chosen = np.unique(np.geomspace(1, count, _FRAMES).astype(int) - 1) if count > _FRAMES else np.arange(count)
    shown = [int(frame) for frame in chosen]
    frames = [_frame(times, (states, costates, controls), labels, frame) for frame in shown]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=[*frames[1:], *[frames[-1]] * 8], duration=120, loop=0)
    return buffer.getvalue()


def _frame(times: Tensor, fields: tuple[Tensor, Tensor, Tensor], labels: Labels, tick: int) -> Image.Image:
    """The first state, costate and control at one tick, over where they end."""
    figure = Figure(figsize=(9, 3), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{labels.title}: tick {tick}", fontsize=11)
    names = (labels.states[0], f"costate of {labels.states[0]}", labels.controls[0] if labels.controls else "")
    for axes, field, name, color in zip(
        figure.subplots(1, 3), fields, names, (_STATE, _COSTATE, _CONTROL), strict=True
    ):
        if not field.shape[-1]:
            axes.set_axis_off()
            continue
        values = field[..., 0]
        low, high = float(values[-1].min()), float(values[-1].max())
        room = 0.4 * max(high - low, 1e-3)
        axes.plot(times[: values.shape[1]], values[-1], color=_OLD, lw=4)
        axes.plot(times[: values.shape[1]], values[tick], color=color, lw=1.5)
        axes.set(title=name, xlabel=labels.time, ylim=(low - room, high + room))
        axes.grid(alpha=0.25)
    return Image.open(io.BytesIO(_png(figure))).convert("P", palette=Image.Palette.ADAPTIVE)


def _sheet(figure: Figure, axes: Axes, ticks: Sequence[int], values: Tensor, end: float) -> None:
    """Time to the right, ticks upward."""
    finite = values[values.isfinite()]
    top = float(finite.max()) if len(finite) else 1.0
    top = top or 1.0
    floor = max(top * 1e-6, float(finite[finite > 0].min()) if bool((finite > 0).any()) else top * 1e-6)
    floor = min(floor, top / 10)
    image = axes.imshow(
        values.where(values > floor, nan).numpy(),
        norm=LogNorm(floor, top),
        cmap="plasma",
        origin="lower",
        aspect="auto",
        extent=(0.0, end, float(ticks[0]) - 0.5, float(ticks[-1]) + 0.5),
        interpolation="nearest",
    )
    axes.set_facecolor(AT_REST)
    figure.colorbar(image, ax=axes, pad=0.02, label="norm of a stage's residual")


def _grid(labels: Labels, columns: int) -> tuple[Figure, list[list[Axes]]]:
    width = max(columns, len(labels.controls))
    figure = Figure(figsize=(min(2.6 * width + 1, 16), 6.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(labels.title, fontsize=12)
    rows: list[list[Axes]] = []
    for row, used in enumerate((columns, columns, len(labels.controls))):
        rows.append([figure.add_subplot(3, width, row * width + column + 1) for column in range(used)])
    for panel in rows[2] or rows[1]:
        panel.set_xlabel(labels.time)
    return figure, rows


def _curve(axes: Axes, times: Tensor, values: Tensor, color: str, name: str) -> None:
    axes.plot(times, values, color=color, lw=1.5)
    axes.set_title(name, fontsize=9)
    axes.grid(alpha=0.25)


def _aim(axes: Axes, labels: Labels, number: int) -> None:
    """A dotted line where a state is to end."""
    aim = labels.goal[number] if labels.goal else None
    if aim is not None:
        axes.axhline(aim, color=_GOAL, lw=1, ls=":")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

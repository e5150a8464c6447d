"""Plants as they move: a pendulum, a pole on a cart, a car on its track, as an animated GIF."""

import io
from collections.abc import Callable, Mapping
from math import cos, pi, sin
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

_BODY, _ROD, _GROUND, _PAST = "tab:red", "0.25", "0.6", "tab:blue"
_FRAMES = 60
_POLE = 0.5  # m, of the pole on the cart

Drawing = Callable[[Axes, np.ndarray, int], None]
"""Draws one state, of states (N + 1, n) along a path, over those before it."""


def _pendulum(axes: Axes, states: np.ndarray, row: int) -> None:
    angles = states[: row + 1, 0]
    axes.plot(np.sin(angles), -np.cos(angles), color=_PAST, lw=1, alpha=0.4)
    tip = (sin(angles[-1]), -cos(angles[-1]))
    axes.plot((0, tip[0]), (0, tip[1]), color=_ROD, lw=3)
    axes.plot(*tip, "o", color=_BODY, ms=16)
    axes.plot(0, 0, "o", color=_ROD, ms=6)
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))


def _cartpole(axes: Axes, states: np.ndarray, row: int) -> None:
    place, angle = states[row, 0], states[row, 1]
    room = max(1.0, float(np.abs(states[:, 0]).max()) + 0.7)
    past = states[: row + 1]
    axes.plot(past[:, 0] + _POLE * np.sin(past[:, 1]), -_POLE * np.cos(past[:, 1]), color=_PAST, lw=1, alpha=0.4)
    axes.axhline(-0.08, color=_GROUND, lw=1)
    axes.add_patch(Rectangle((place - 0.15, -0.08), 0.3, 0.16, color=_ROD))
    tip = (place + _POLE * sin(angle), -_POLE * cos(angle))
    axes.plot((place, tip[0]), (0, tip[1]), color=_GROUND, lw=4)
    axes.plot(*tip, "o", color=_BODY, ms=12)
    axes.set(xlim=(-room, room), ylim=(-room, room))


def _race_car(axes: Axes, states: np.ndarray, row: int) -> None:
    """A lap is a circle; the slower a car must be at a place, the redder it is there."""
    places = np.linspace(0, 1, 201)
    limit = 1 - np.sin(2 * pi * places) / 2
    axes.scatter(*_on_track(places), c=limit, cmap="RdYlGn", s=140, alpha=0.5, linewidths=0)
    axes.plot((0.85, 1.15), (0, 0), color=_ROD, lw=2)
    axes.plot(*_on_track(states[row, :1]), "o", color=_ROD, ms=12)
    axes.text(0, 0, f"speed {states[row, 1]:.2f}\nlimit {1 - sin(2 * pi * states[row, 0]) / 2:.2f}", ha="center")
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))


def _on_track(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(2 * pi * places), np.sin(2 * pi * places)


PLANTS: Mapping[str, Drawing] = {"pendulum": _pendulum, "cartpole": _cartpole, "race-car": _race_car}
"""What has a drawing, by the name of its problem."""


def plant_film(draw: Drawing, times: Tensor, states: Tensor, title: str) -> bytes:
    """States (N + 1, n) at their times, one after the other, as an animated GIF."""
    rows = np.unique(np.linspace(0, len(states) - 1, min(_FRAMES, len(states))).astype(int))
    path = states.numpy()
    frames = [_frame(draw, path, int(row), f"{title}: t = {float(times[row]):.2f}") for row in rows]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=[*frames[1:], *[frames[-1]] * 8], duration=80, loop=0)
    return buffer.getvalue()


def _frame(draw: Drawing, states: np.ndarray, row: int, title: str) -> Image.Image:
    figure = Figure(figsize=(4.2, 4.4), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(fill(title, 44), fontsize=10)
    axes.set_aspect("equal")
    axes.set_axis_off()
    draw(axes, states, row)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE)

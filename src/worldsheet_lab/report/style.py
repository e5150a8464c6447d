"""Colours, axes and the traces that several panels share."""

from collections.abc import Sequence
from math import ceil, floor, isfinite, log10, nan
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from worldsheet_lab.report.panel import Figure

COLOURS = ("#3d85c6", "#e07b39", "#2a9d6f", "#cc5a71", "#8e6bbf", "#a6813c", "#4fa3a5", "#b85fb0")
"""Readable on white and on near black."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "hexagon")
"""A marker for each colour, so that curves are told apart without colours too."""
STATE, COSTATE, CONTROL, PALE = COLOURS[0], COLOURS[3], COLOURS[2], "#8a8f98"
CANVAS = "rgba(128,133,142,0.35)"
"""Behind heat maps, grey on either paper: what is at rest, which no colour of a scale looks like."""
_ZERO, _VEIL, _CURSOR = "#17181f", "#000000", "#f2f2f2"
FRONT = "#1fb8a0"
"""A line over a heat map, which its legend shows on paper too."""
RISING = "Plasma"
TURNING = ((0.0, "#59b7ff"), (0.25, "#27689c"), (0.5, _ZERO), (0.75, "#a8502a"), (1.0, "#ffa261"))
"""From below zero to above it, dark at zero."""

BAR = {"thickness": 10, "xpad": 4}
"""The scale beside a heat map."""

COLUMNS = 400
"""Ticks of a heat map."""
MOMENTS = 60
"""Moments of a film."""
POINTS = 2000
"""Points of a curve."""
_MARKERS = 12
"""Markers of a curve, at most."""
AT_REST = 1e-6
"""Share of the largest residual below which there is nothing but the rounding of float32."""

_CLEAR = "rgba(0,0,0,0)"
_INK = {"light": "#22252b", "dark": "#dfe3ea"}
_GRID = {"light": "#e3e6ea", "dark": "#343943"}


def template(theme: str) -> dict[str, Any]:
    """What of a figure depends on the theme, light or dark, and what all figures have in common."""
    axis = {
        "gridcolor": _GRID[theme],
        "linecolor": _GRID[theme],
        "zerolinecolor": _GRID[theme],
        "automargin": True,
        "title": {"standoff": 6},
        "exponentformat": "power",
    }
    return {
        "layout": {
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12, "color": _INK[theme]},
            "paper_bgcolor": _CLEAR,
            "plot_bgcolor": _CLEAR,
            "colorway": list(COLOURS),
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 54, "r": 14, "t": 10, "b": 44},
            "legend": {
                "tracegroupgap": 0,
                "orientation": "h",
                "y": 1.02,
                "yanchor": "bottom",
                "x": 0,
                "bgcolor": "rgba(0,0,0,0)",
            },
            "hoverlabel": {"font": {"size": 12}},
        }
    }


def figure(x: str, y: str, *traces: Any, **layout: Any) -> Figure:
    """A figure with named axes."""
    made = go.Figure(list(traces), layout={"template": {}, "xaxis": {"title": {"text": x}}})
    made.update_layout(yaxis={"title": {"text": y}}, **layout)
    return made


def curve(x: Any, y: Any, name: str, colour: str, **more: Any) -> go.Scatter:
    """A line; `width`, `dash`, `opacity` and `mode` may be chosen. Markers, some of them, are those of its colour."""
    width = more.pop("width", 1.8)
    line = {"color": colour, "width": width, "dash": more.pop("dash", "solid")}
    symbol = SYMBOLS[COLOURS.index(colour)] if colour in COLOURS else "circle"
    marker = {"symbol": symbol, "size": 5 + width, "maxdisplayed": _MARKERS}
    return go.Scatter(x=x, y=y, name=name, mode=more.pop("mode", "lines"), line=line, marker=marker, **more)


def log_axis(made: Figure, decades: int = 12) -> None:
    """A logarithmic y axis over what is drawn, at most so many powers of ten below the largest value."""
    values = np.concatenate([np.asarray(trace.y, dtype=float).ravel() for trace in made.data] or [np.zeros(0)])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return
    top = float(values.max())
    low = max(float(values.min()), top * 10.0**-decades)
    span = log10(top) - log10(low)
    room = max(0.06 * span, 0.04) if span > 0 else 0.2  # a single value has ticks around it, too
    steps = (1,) if span > 2 else (1, 2, 5) if span > 0.7 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    every = ceil(span / 8) if span > 2 else 1
    powers = range(floor(log10(low)), ceil(log10(top)) + 1)
    ticks = [(power, step) for power in powers if power % every == 0 for step in steps]
    made.update_yaxes(
        type="log",
        range=[log10(low) - room, log10(top) + room],
        tickvals=[step * 10.0**power for power, step in ticks],
        ticktext=[f"10<sup>{power}</sup>" if span > 2 else f"{step * 10.0**power:g}" for power, step in ticks],
    )


def with_legend(made: Figure) -> int:
    """A height, in pixels, in which the names of all curves leave room for the curves."""
    return 310 + 10 * sum(trace.showlegend is not False for trace in made.data)


def whole_axis(made: Figure, count: int) -> None:
    """An x axis of the numbers 1 to `count`."""
    made.update_xaxes(tick0=1 if count < 10 else 0, dtick=max(1, ceil(count / 8)), tickformat="d")
    if count == 1:
        made.update_xaxes(range=[0.5, 1.5])


def share_axis(made: Figure) -> None:
    """A y axis in per cent over what is drawn, with no room below 0 and above 100."""
    values = [value for trace in made.data for value in trace.y if isfinite(value)]
    if values:
        room = max(0.08 * (max(values) - min(values)), 0.02)
        made.update_yaxes(range=[max(-0.005, min(values) - room), min(1.005, max(values) + room)])
    made.update_yaxes(tickformat=".3~p")


def stride(count: int, most: int) -> int:
    """Every how many of `count` rows at most `most` remain."""
    return max(1, ceil(count / most))


def left_out(count: int, shown: int, what: str) -> str:
    """A sentence about what a drawing does not show; empty where it shows all."""
    return "" if shown >= count else f" {shown} of {count} {what} are drawn, evenly spaced."


def log_heat_map(x: Sequence[float], values: Tensor, words: str, first: int = 1) -> go.Heatmap:
    """Rows of `values` (x, site) as columns, colours by power of ten; what is at rest is left grey.

    `customdata` holds the numbers themselves.

    Args:
        x: where each row stands.
        values: not negative.
        words: what they are, for the label under the pointer: with `{y}` and `{x}`.
        first: number of the first site.
    """
    raw = values.T.double().numpy()
    finite = raw[np.isfinite(raw)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    shown = np.where(np.isfinite(raw), raw, top)
    shown = np.where(shown > AT_REST * top, shown, nan)
    low = float(np.nanmin(shown)) if np.isfinite(shown).any() else top / 10
    low = min(low, top / 10)
    return go.Heatmap(
        x=np.asarray(x),
        y=np.arange(first, first + len(raw)),
        z=np.log10(shown).astype(np.float32),
        customdata=raw,
        zmin=log10(low),
        zmax=log10(top),
        colorscale=RISING,
        hovertemplate=f"{words}: %{{customdata:.3g}}<extra></extra>",
        hoverongaps=False,
        colorbar={**BAR, **_log_ticks(low, top)},
    )


def _log_ticks(low: float, top: float) -> dict[str, Any]:
    """Where a logarithmic scale has its numbers, three at least: powers of ten, or 1, 2 and 5 times such."""
    powers = range(ceil(log10(low)), floor(log10(top)) + 1)
    if len(powers) > 2:
        return {"tickvals": list(powers), "ticktext": [f"10<sup>{power}</sup>" for power in powers]}
    fine = [step * 10.0**power for power in range(floor(log10(low)), floor(log10(top)) + 1) for step in (1, 2, 5)]
    inside = [value for value in fine if low <= value <= top]
    return {"tickvals": [log10(value) for value in inside], "ticktext": [f"{value:.3g}" for value in inside]}


def on_canvas(made: Figure, sites: bool = True) -> Figure:
    """A heat map's figure: grey behind, no grid, whole numbers at the sites."""
    made.update_layout(plot_bgcolor=CANVAS, margin={"r": 8})
    made.update_xaxes(showgrid=False, zeroline=False)
    made.update_yaxes(showgrid=False, zeroline=False, **({"tickformat": "d"} if sites else {}))
    return made


def cursor(at: float, half: float, end: float) -> list[dict[str, Any]]:
    """A line at a moment, and a veil over the columns after it.

    Args:
        at: the moment.
        half: half the width of a column.
        end: the right edge of the last column.
    """
    height = {"y0": 0, "y1": 1, "yref": "paper"}
    line = {**height, "type": "line", "x0": at, "x1": at, "line": {"color": _CURSOR, "width": 1}}
    sides = {"x0": min(at + half, end), "x1": end, "fillcolor": _VEIL, "opacity": 0.7}
    return [line, {**height, **sides, "type": "rect", "line": {"width": 0}}]

"""Who computed what when, drawn from what the stages have noted."""

import io
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

Note: TypeAlias = tuple[str, float, float]
"""What was done (F3, B2, U7: `Action` in writing), when it began and when it ended, in seconds."""

_UP, _BACK, _UPDATE, _IDLE = "tab:blue", "tab:orange", "0.15", "0.93"
_ROUNDS = 12  # packets of the last stage that a window shows
_ROOM = 0.012  # of the window that a bar needs to hold its name


def timeline(stages: Sequence[Sequence[Note]], title: str) -> bytes:
    """How a segment begins, a piece of its middle, and how busy each stage was, as PNG.

    Args:
        stages: the notes of each stage over one segment, by clocks that agree.
        title: what was trained.
    """
    height = 1.8 + 0.42 * len(stages)
    figure = Figure(figsize=(12, max(height, 3.2)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    begin = min(notes[0][1] for notes in stages if notes)
    end = max(notes[-1][2] for notes in stages if notes)
    width = _width(stages)
    centre = begin + (end - begin) / 2
    windows = {"the pipeline fills": (begin, width), "in the middle of the segment": (centre, width)}
    if end - begin < 3 * width:
        windows = {"the whole segment": (begin, end - begin)}
    *panels, share = figure.subplots(1, len(windows) + 1, width_ratios=[10 / len(windows)] * len(windows) + [1.4])
    for axes, (name, (low, wide)) in zip(panels, windows.items(), strict=True):
        _window(axes, stages, begin, low, wide)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("ms since the segment began")
    _shares(share, stages, end - begin)
    panels[0].set_ylabel("stage")
    kinds = ((_UP, "packet up"), (_BACK, "credit back"), (_UPDATE, "update"), (_IDLE, "waiting"))
    figure.legend(
        handles=[Patch(color=color, label=name) for color, name in kinds],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return _png(figure)


def over_links(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], title: str, told: str) -> bytes:
    """Curves over the rate of links, a panel for each kind of them, as PNG.

    Args:
        panels: by their names, the points of each curve.
        title: what was measured.
        told: what the curves show.
    """
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    row = figure.subplots(1, len(panels), sharey=True)
    for axes, (name, curves) in zip(row, panels.items(), strict=True):
        for number, (label, points) in enumerate(curves.items()):
            style = {"marker": "o^svDx"[number % 6], "linestyle": ("-", "--")[number % 2], "markersize": 4}
            axes.plot(*zip(*points, strict=True), color=f"C{number // 2}", label=label, **style)
        axes.axhline(1, color="0.6", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("link (Gbit/s)")
    row[0].set_ylabel(told)
    handles, names = row[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return _png(figure)


def _width(stages: Sequence[Sequence[Note]]) -> float:
    """Seconds in which the last stage answers `_ROUNDS` packets in the middle of the segment."""
    ends = [end for name, _, end in stages[-1] if name[0] == "B"]
    half = len(ends) // 2
    some = ends[half : half + _ROUNDS + 1]
    if len(some) < 2:
        return max(notes[-1][2] for notes in stages) - min(notes[0][1] for notes in stages)
    return (some[-1] - some[0]) * _ROUNDS / (len(some) - 1)


def _window(axes: Axes, stages: Sequence[Sequence[Note]], zero: float, low: float, width: float) -> None:
    """The bars of all stages between `low` and `low + width`."""
    for stage, notes in enumerate(stages):
        axes.barh(stage, 1e3 * width, left=1e3 * (low - zero), height=0.8, color=_IDLE, lw=0)
        for name, begin, end in notes:
            if end > low and begin < low + width:
                _bar(axes, stage, (name, begin - zero, end - zero), (low - zero, low - zero + width))
    axes.set_xlim(1e3 * (low - zero), 1e3 * (low - zero + width))
    axes.set_ylim(-0.6, len(stages) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _bar(axes: Axes, stage: int, note: Note, window: tuple[float, float]) -> None:
    name, begin, end = note
    if name[0] == "U":
        axes.barh(stage, 1e3 * (end - begin), left=1e3 * begin, height=0.8, color=_UPDATE, lw=0)
        return
    color = _UP if name[0] == "F" else _BACK
    axes.barh(stage, 1e3 * (end - begin), left=1e3 * begin, height=0.8, color=color, edgecolor="white", lw=0.6)
    seen = min(end, window[1]) - max(begin, window[0])
    if seen > _ROOM * len(name) * (window[1] - window[0]):
        middle = 1e3 * (max(begin, window[0]) + seen / 2)
        axes.text(middle, stage, name[1:], ha="center", va="center", fontsize=7, color="white", clip_on=True)


def _shares(axes: Axes, stages: Sequence[Sequence[Note]], seconds: float) -> None:
    """How much of the whole segment each stage has computed."""
    for stage, notes in enumerate(stages):
        left = 0.0
        for kind, color in (("F", _UP), ("B", _BACK), ("U", _UPDATE)):
            share = sum(end - begin for name, begin, end in notes if name[0] == kind) / seconds
            axes.barh(stage, share, left=left, height=0.8, color=color, lw=0)
            left += share
        axes.text(1.03, stage, f"{left:.0%}", va="center", fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(stages) - 0.4)
    axes.set_yticks([])
    axes.set_xticks([0, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title("busy, whole segment", fontsize=10)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

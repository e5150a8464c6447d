"""Figures drawn from what a run has saved, and what figures of matplotlib have in common."""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import cycle
from math import inf, log10, nan
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.rcsetup import cycler
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from torch import Tensor

from worldsheet.streaming import Trace
from worldsheet_lab.run_folder import Row

_TRAIN, _TEST = "tab:orange", "tab:blue"
_STYLES: tuple[dict[str, Any], ...] = ({"lw": 5, "alpha": 0.4}, {"lw": 1.3, "ls": (0, (4, 2))})
AT_REST = "#d9d9d9"
"""Grey, which no colour of a scale looks like."""
CURVES: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "marker": "o", "ls": "-"},
    {"color": "#e69f00", "marker": "s", "ls": "--"},
    {"color": "#009e73", "marker": "^", "ls": "-."},
    {"color": "#d55e00", "marker": "D", "ls": ":"},
    {"color": "#cc79a7", "marker": "v", "ls": (0, (5, 1))},
    {"color": "#56b4e9", "marker": "P", "ls": (0, (3, 1, 1, 1))},
    {"color": "#000000", "marker": "X", "ls": (0, (1, 1))},
    {"color": "#808080", "marker": "p", "ls": (0, (4, 2, 1, 2))},
)
"""Colours of Okabe and Ito, told apart by all eyes; on paper without colours the markers and dashes tell them."""
_ROUNDING = 1e-6  # of the largest residual; below it lies the rounding of float32


def learning_curves(rows: Sequence[Row], title: str) -> bytes:
    """Loss and accuracy of every contender over the epochs, as PNG.

    Curves of equal contenders lie on each other, so the first is drawn broad and pale and the second thin and dashed.
    """
    figure = _figure(title)
    loss, accuracy = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["contender"] for row in rows))
    for name, style in zip(names, _STYLES, strict=True):
        own = [row for row in rows if row["contender"] == name]
        epochs = [row["epoch"] for row in own]
        for key, color in (("train_loss", _TRAIN), ("test_loss", _TEST)):
            loss.plot(epochs, [_number(row[key]) for row in own], color=color, **_marked(style, epochs))
        shown = _marked(style, epochs)
        accuracy.plot(epochs, [row["test_accuracy"] for row in own], color=_TEST, label=name, **shown)
    loss.set(xlabel="epoch", ylabel="cross-entropy per image (nats)", yscale="log", title="loss")
    accuracy.set(xlabel="epoch", ylabel="test images classified correctly", title="accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    plain_log(loss)
    for axes in (loss, accuracy):
        whole_numbers(axes, len(rows) // len(names))
        axes.grid(alpha=0.25)
    pale, dashed = accuracy.get_legend_handles_labels()[0]
    colors = [Line2D([], [], color=_TRAIN, label="training images"), Line2D([], [], color=_TEST, label="test images")]
    loss.legend(handles=colors, frameon=False)
    accuracy.legend(handles=[pale, dashed], frameon=False, loc="lower right")
    return _png(figure)


def _marked(style: Mapping[str, Any], epochs: Sequence[int]) -> dict[str, Any]:
    """With a marker where there is a single epoch, whose line has no length."""
    return {**style, "marker": "o", "ms": 4 + 2 * style["lw"]} if len(epochs) == 1 else dict(style)


def rivals(dynamics: Mapping[str, Mapping[str, Any]], title: str) -> bytes:
    """Accuracy by epoch and cosine with backprop's gradient by layer, a colour a dynamics, as PNG.

    Args:
        dynamics: by name, `curves` of accuracies by seed and `cosine` by layer.
        title: what was trained.
    """
    figure = _figure(title)
    accuracy, cosine = figure.subplots(1, 2)
    length = 1
    for (name, row), look in zip(dynamics.items(), cycle(CURVES), strict=False):
        curves = row["curves"]
        length = min(map(len, curves))
        mean = [sum(curve[k] for curve in curves) / len(curves) for k in range(length)]
        broad: dict[str, Any] = {} if row["cosine"] else {"lw": 5, "alpha": 0.4}  # backprop, under the others
        accuracy.plot(range(1, length + 1), mean, label=name, **{"lw": 1.5, "ms": 4, **look, **broad})
        if length > 1:
            low, high = ([pick(c[k] for c in curves) for k in range(length)] for pick in (min, max))
            accuracy.fill_between(range(1, length + 1), low, high, color=look["color"], alpha=0.12, lw=0)
        if row["cosine"]:
            layers = range(1, len(row["cosine"]) + 1)
            cosine.plot(layers, list(row["cosine"].values()), ms=5, **look)
    accuracy.set(xlabel="epoch", ylabel="test images classified correctly", title="accuracy, mean and range over seeds")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    cosine.set(
        xlabel="layer  (input left, output right)", ylabel="cosine", title="gradient against backprop's, by layer"
    )
    whole_numbers(accuracy, length)
    cosine.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (accuracy, cosine):
        axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=len(dynamics), frameon=False)
    return _png(figure)


def styled() -> AbstractContextManager[None]:
    """What figures have in common that scripts draw: colours that all eyes tell apart, and a faint grid."""
    return rc_context(
        {
            "axes.prop_cycle": cycler(color=[look["color"] for look in CURVES]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
        }
    )


def whole_numbers(axes: Axes, count: int) -> None:
    """An x axis of the numbers 1 to `count`, also where there is a single one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if count == 1:
        axes.set_xlim(0.5, 1.5)


def plain_log(axes: Axes) -> None:
    """Plain numbers along a logarithmic y axis that spans less than three powers of ten."""
    low, high = axes.get_ylim()
    decades = log10(high / low) if 0 < low < high else inf
    if decades < 3:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if decades > 1 else MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def worldsheet(sheet: Mapping[str, Tensor], depth: int, title: str) -> bytes:
    """The residuals of every site at every tick, states on the left and costates on the right, as PNG.

    Args:
        sheet: `ticks` (T,), and `state_residuals` and `costate_residuals` (T, L) in float64.
        depth: D, the ticks of one front; thin lines mark D and 2D.
        title: what was relaxed.
    """
    figure = _figure(title)
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, "state_residuals", "state residual  $\\Vert f_l(x_{l-1}) - x_l\\Vert$"),
        (right, "costate_residuals", "costate residual  $\\Vert J_{l+1}^T\\lambda_{l+1} - \\lambda_l\\Vert$"),
    )
    for axes, key, caption in panels:
        _panel(axes, sheet["ticks"], sheet[key])
        _mark(axes, depth)
        axes.set_title(caption, fontsize=11, pad=22)
        axes.set_xlabel("tick")
    left.set_ylabel("site $l$  (input below, output above)")
    figure.supxlabel(
        "grey: at rest, the residual is zero to rounding; either settled or not reached yet", fontsize=9, color="0.35"
    )
    return _png(figure)


def tracking(trace: Trace, wanted: Sequence[float], title: str) -> bytes:
    """A signal and the output neuron that tracks it, with their energies below, as PNG.

    Args:
        trace: of a network with one output; its first stream is drawn.
        wanted: the signal at the rows of the trace.
        title: what was run.
    """
    figure = _figure(title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(trace.times, wanted, color=_TRAIN, label="signal", **_STYLES[0])
    above.plot(trace.times, trace.outputs[:, 0, 0].nan_to_num(nan), color=_TEST, lw=1.2, label="output neuron")
    above.set(ylim=(-1.1, 1.1), ylabel="state")
    below.plot(trace.times, trace.lagrangians[:, 0], lw=1, color=_TRAIN, label="Lagrangian / φ")
    below.plot(trace.times, trace.hamiltonians[:, 0], lw=1, ls="--", color=_TEST, label="Hamiltonian / φ")
    if float(trace.lagrangians.nan_to_num(0, 0, 0).abs().max()) > 1.0:
        below.set_yscale("symlog", linthresh=0.1)
    below.tick_params(axis="y", labelsize=8)
    below.set(xlabel="time (s)", ylabel="energy")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper right", fontsize=9)
    return _png(figure)


def _panel(axes: Axes, ticks: Tensor, residuals: Tensor) -> None:
    """One field: sites upward, ticks to the right; what is at rest stays grey."""
    values = residuals.T
    top = float(values[values.isfinite()].max()) or 1.0
    values = values.nan_to_num(top, top)  # what overflowed is as bright as can be
    moving = values > _ROUNDING * top
    floor = min(float(values.where(moving, top).min()), top / 10)
    step = int(ticks[1] - ticks[0]) if len(ticks) > 1 else 1
    extent = (float(ticks[0]) - step / 2, float(ticks[-1]) + step / 2, 0.5, len(values) + 0.5)
    axes.set_facecolor(AT_REST)
    image = axes.imshow(
        values.where(moving, nan).numpy(),
        norm=LogNorm(floor, top),
        cmap="plasma",
        origin="lower",
        aspect="auto",
        extent=extent,
        interpolation="nearest",
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=axes, format=LogFormatterMathtext(), pad=0.02, label="norm over the batch")


def _mark(axes: Axes, depth: int) -> None:
    """The ticks at which the fronts arrive: D at the output, 2D back at the input."""
    for tick, name in ((depth, "$L$"), (2 * depth, "$2L$")):
        axes.axvline(tick, color="0.25", lw=0.9, ls=(0, (4, 3)))
        axes.text(tick, 1.02, f"{name} = {tick}", transform=axes.get_xaxis_transform(), ha="center", fontsize=9)


def _figure(title: str) -> Figure:
    figure = Figure(figsize=(10, 4.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _number(value: float | None) -> float:
    """A loss that overflowed leaves a gap in its curve."""
    return nan if value is None else value

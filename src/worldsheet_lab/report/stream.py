"""Neurons that learn to track a signal while it happens."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from worldsheet_lab.report.panel import Drawing, Figure, Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.runs import StreamRun
from worldsheet_lab.report.style import COLOURS, PALE, POINTS, curve, figure, left_out, log_axis
from worldsheet_lab.subsample import subsample

_LINEAR = 0.1  # below it the scale of energies is linear
_WINDOW = 1.0  # seconds
_ENERGIES = ((COLOURS[1], "Lagrangian / φ", "lagrangians"), (COLOURS[0], "Hamiltonian / φ", "hamiltonians"))


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One for each stream."""
    for run in runs:
        if isinstance(run, StreamRun):
            yield _panel(run, run.trace)


def _panel(run: StreamRun, trace: dict[str, Tensor]) -> Panel:
    count = len(trace["times"])
    rows = subsample(count, POINTS)
    times = trace["times"][rows].numpy()
    tracking = figure("time (s)", "state")
    tracking.add_trace(curve(times, trace["wanted"][rows].numpy(), "signal", PALE, width=5, opacity=0.5))
    tracking.add_trace(curve(times, _finite(trace["outputs"][rows]), "output neuron", COLOURS[0], width=1.5))
    tracking.update_yaxes(range=[-1.1, 1.1])
    energies = figure("time (s)", "")
    for colour, name, part in _ENERGIES:
        values = _finite(trace[part][rows])
        label = {"customdata": values, "hovertemplate": "%{x:.3f} s: %{customdata:.3g}"}
        dash = "solid" if part == "lagrangians" else "dash"
        energies.add_trace(curve(times, _bend(values), name, colour, width=1.4, dash=dash, **label))
    _bent_axis(energies, [trace["lagrangians"], trace["hamiltonians"]])
    costates = curve(times, _finite(trace["costate_norms"][rows]), "costates", COLOURS[3], width=1.2)
    norms = figure("time (s)", "", costates, showlegend=False)
    log_axis(norms)
    drawings = (
        Drawing("Signal, and the output neuron that tracks it", tracking),
        Drawing(f"Error: root mean square over {_WINDOW:g} s", _error(trace)),
        Drawing("Energies, linear below 0.1 and logarithmic above", energies),
        Drawing("Norm of all costates, of states and weights", norms),
    )
    words = (
        "Time is the stream's own. Outputs are drawn between −1.1 and 1.1. Energies are per weight of their moment, "
        "φ = exp(θt) with θ the dissipation." + left_out(count, len(rows), "rows")
    )
    return Panel(f"stream-{run.label}", f"Stream, {run.label}: {run.about}", words, drawings)


def _error(trace: dict[str, Tensor]) -> Figure:
    """Running root mean square of output − signal over the window before."""
    times, squares = trace["times"].numpy(), (trace["outputs"] - trace["wanted"]).square().numpy()
    squares = np.where(np.isfinite(squares), squares, np.nan)
    sums = np.concatenate([[0.0], np.nancumsum(squares)])
    begin = np.searchsorted(times, times - _WINDOW, side="right")
    end = np.arange(1, len(times) + 1)
    means = (sums[end] - sums[begin]) / (end - begin)
    rows = subsample(len(times), POINTS)
    made = figure("time (s)", "", curve(times[rows], np.sqrt(means)[rows], "error", COLOURS[1]), showlegend=False)
    made.update_yaxes(rangemode="tozero")
    return made


def _finite(values: Tensor) -> np.ndarray:
    """What overflowed leaves a gap."""
    return np.where(values.isfinite().numpy(), values.numpy(), np.nan)


def _bend(values: np.ndarray) -> np.ndarray:
    """A scale that is linear near 0 and logarithmic far from it, on both sides."""
    return np.asarray(np.arcsinh(values / _LINEAR))


def _bent_axis(made: Figure, curves: Sequence[Tensor]) -> None:
    top = max([float(values[values.isfinite()].abs().max()) for values in curves if values.isfinite().any()] or [1.0])
    powers = range(-1, int(np.ceil(np.log10(max(top, _LINEAR)))) + 1)
    steps = (0.5, 1, 2, 5) if top < 10 * _LINEAR else (1,)
    ticks = [0.0, *(sign * step * 10.0**power for power in powers for step in steps for sign in (1, -1))]
    made.update_yaxes(tickvals=_bend(np.array(ticks)), ticktext=[f"{tick:g}" for tick in ticks])

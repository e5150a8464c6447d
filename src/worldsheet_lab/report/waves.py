"""Where the energy of a wave goes: through the sites, back from the junctions, into the cost."""

from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from worldsheet_lab.report.panel import Drawing, Figure, Panel
from worldsheet_lab.report.run import Run, sheets_of
from worldsheet_lab.report.style import (
    COLOURS,
    COLUMNS,
    FRONT,
    curve,
    figure,
    left_out,
    log_heat_map,
    on_canvas,
    stride,
    whole_axis,
)
from worldsheet_lab.sheets import Sheet

_WORDS = (
    "Energies are those of the distance to rest, in units of the cost. A junction is where two sites meet; its "
    "reflected power is what a rising wave of its state sends back, which is nothing where impedances match. In a "
    "linear network, what the energy loses in a tick is what the output and the matched sites have absorbed; nonlinear "
    "layers feed some back. The fronts are how far states and costates have come."
)


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One for each recorded wave."""
    for number, (name, sheet) in enumerate(sheets_of(runs).items()):
        if "reflected" in sheet:
            rows = len(sheet["moments"])
            shown = len(range(0, rows, stride(rows, COLUMNS)))
            drawings = (
                Drawing("Energy of every site", _plane(sheet, "energy", "energy")),
                Drawing("Power reflected at every junction", _plane(sheet, "reflected", "reflected")),
                Drawing("Energy left, and absorbed so far", _balance(sheet)),
                Drawing("Reflected power of each junction, summed over the ticks", _junctions(sheet)),
            )
            words = _WORDS + left_out(rows, shown, "ticks of the heat maps")
            yield Panel(f"waves-{number}", f"Waves, {name}", words, drawings)


def _plane(sheet: Sheet, part: str, words: str) -> Figure:
    """Sites over ticks, with both fronts."""
    ticks, step = sheet["moments"], stride(len(sheet["moments"]), COLUMNS)
    values = sheet[part].clamp(min=0)
    heat = log_heat_map(ticks[::step].tolist(), values[::step], f"tick %{{x}}, site %{{y}}, {words}")
    made = on_canvas(figure("tick", "site", heat))
    size = values.shape[1]
    for name, height, dash in (
        ("states' front", sheet["state_front"], "solid"),
        ("costates' front", size + 1 - sheet["costate_front"], "dash"),
    ):
        inside = (height >= 1) & (height <= size)
        y = np.where(inside.numpy(), height.numpy(), np.nan)
        made.add_trace(curve(ticks.numpy(), y, name, FRONT, dash=dash, width=1.6))
    made.update_yaxes(range=[0.5, size + 0.5])
    return made


def _balance(sheet: Sheet) -> Figure:
    ticks = sheet["moments"].numpy()
    made = figure("tick", "energy")
    sums: tuple[tuple[str, Tensor], ...] = (
        ("energy of all sites", sheet["energy"].sum(1)),
        ("absorbed by the cost", _so_far(sheet["at_output"])),
        ("absorbed by matching", _so_far(sheet["absorbed"].sum(1))),
    )
    for colour, (name, values) in zip(COLOURS, sums, strict=False):
        made.add_trace(curve(ticks, values.numpy(), name, colour, mode="lines+markers"))
    return made


def _so_far(values: Tensor) -> Tensor:
    """Sums up to each moment, 0 at the first."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])


def _junctions(sheet: Sheet) -> Figure:
    totals = sheet["reflected"].sum(0).numpy()
    bars = go.Bar(x=np.arange(1, len(totals) + 1), y=totals, marker={"color": COLOURS[0]}, showlegend=False)
    made = figure("junction above site", "power", bars)
    whole_axis(made, len(totals))
    return made

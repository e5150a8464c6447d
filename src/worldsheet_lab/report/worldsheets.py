"""The worldsheet: depth × tick, and the fields of one sample while a slider goes through the ticks."""

from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from worldsheet_lab.report.panel import Drawing, Panel
from worldsheet_lab.report.run import Run, sheets_of
from worldsheet_lab.report.style import (
    BAR,
    COLUMNS,
    MOMENTS,
    TURNING,
    cursor,
    figure,
    left_out,
    log_heat_map,
    on_canvas,
    stride,
)
from worldsheet_lab.sheets import SAMPLES, Sheet
from worldsheet_lab.subsample import subsample

_HEIGHT = 320
_DECADES = 3  # of one sample's fields
_STEPS, _ABSENT = 127, -128
_RESIDUALS = (
    ("state_residuals", "State residual ‖f(x below) − x‖ over the batch"),
    ("costate_residuals", "Costate residual ‖Jᵀλ above − λ‖ over the batch"),
)
_DISTANCES = (
    ("state_distances", "State's distance to rest ‖δx‖"),
    ("costate_distances", "Costate's distance to rest ‖δλ‖"),
)
_FIELDS = (
    ("states", "States of one sample at the tick of the slider"),
    ("costates", "Costates of one sample at the tick of the slider"),
)


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One for each recorded relaxation, the first of them open."""
    for number, (name, sheet) in enumerate(sheets_of(runs).items()):
        yield _panel(f"worldsheet-{number}-{name}", name, sheet, folded=number > 0)


def _panel(key: str, name: str, sheet: Sheet, *, folded: bool) -> Panel:
    ticks = sheet["ticks"].tolist()
    moments = sheet["moments"].tolist() if "moments" in sheet else ticks
    film = subsample(len(moments), MOMENTS)
    at = [moments[row] for row in film]
    drawings = [_heat_map(ticks, sheet[part], title, at) for part, title in _RESIDUALS]
    words = (
        "Every site (a layer with what it holds) at every tick (a round of messages) of one relaxation after training; "
        "the input is below, the output above. Grey: at rest, which is settled or not reached yet. The slider goes "
        "through the ticks and darkens what comes after. Of runs that differ in their seed only the first is shown."
    )
    if "moments" in sheet:
        drawings += [_heat_map(moments, sheet[part], title, at) for part, title in _DISTANCES]
        drawings += [_film(sheet[part], film, title) for part, title in _FIELDS]
        words += (
            f" Distances are of the first samples, {SAMPLES} at most. One sample's fields are coloured by sign and by "
            f"size, over {_DECADES} powers of ten below the largest value that their site ever has; wide sites show "
            "some units, evenly spaced. Grey: a site that has no such unit."
        )
    columns = len(ticks[:: stride(len(ticks), COLUMNS)])
    words += left_out(len(ticks), columns, "ticks of the heat maps") + left_out(len(moments), len(film), "moments")
    labels = tuple(f"tick {tick:g} of {ticks[-1]:g}" for tick in at)
    return Panel(key, f"Worldsheet, {name}", words, tuple(drawings), labels, folded)


def _heat_map(ticks: Sequence[float], values: Tensor, title: str, film: Sequence[float]) -> Drawing:
    """Sites over ticks, with a cursor for each moment of the film."""
    step = stride(len(ticks), COLUMNS)
    words = "tick %{x}, site %{y}"
    made = on_canvas(figure("tick", "site", log_heat_map(ticks[::step], values[::step], words)))
    columns = ticks[::step]
    half = (columns[1] - columns[0]) / 2 if len(columns) > 1 else 0.5
    end = columns[-1] + half
    made.frames = [
        go.Frame(name=str(number), data=[], layout={"shapes": cursor(at, half, end)}) for number, at in enumerate(film)
    ]
    return Drawing(title, made, _HEIGHT)


def _film(values: Tensor, rows: Sequence[int], title: str) -> Drawing:
    """Units across, sites upward: the field at each moment."""
    absent = values.isnan().all(0)  # (site, unit): where a site is not as wide
    values = values[..., : max(1, int((~absent).any(0).sum()))]
    absent = absent[:, : values.shape[-1]]
    known = values.nan_to_num(0.0, 0.0, 0.0).abs()
    tops = known.amax(dim=(0, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    pictures = [(_scaled(values[row], tops, absent), values[row].float().numpy()) for row in rows]
    shown, raw = pictures[-1]
    heat = go.Heatmap(
        z=shown,
        x=np.arange(1, shown.shape[1] + 1),
        y=np.arange(1, len(shown) + 1),
        customdata=raw,
        zmin=_ABSENT,
        zmax=_STEPS,
        colorscale=_scale(),
        hovertemplate="site %{y}, unit %{x}: %{customdata:.3g}<extra></extra>",
        hoverongaps=False,
        colorbar={**BAR, "tickvals": [-_STEPS, 0, _STEPS], "ticktext": ["−", "0", "+"]},
    )
    made = on_canvas(figure("unit", "site", heat))
    made.frames = [
        go.Frame(name=str(number), data=[{"type": "heatmap", "z": shown, "customdata": raw}], traces=[0])
        for number, (shown, raw) in enumerate(pictures)
    ]
    return Drawing(title, made, _HEIGHT)


def _scale() -> list[tuple[float, str]]:
    """The colours of −`_STEPS` to `_STEPS`, and none for `_ABSENT`."""
    begin = 0.5 / (_STEPS - _ABSENT)
    coloured = [(begin + place * (1 - begin), colour) for place, colour in TURNING]
    return [(0.0, "rgba(0,0,0,0)"), (begin, "rgba(0,0,0,0)"), *coloured]


def _scaled(field: Tensor, tops: Tensor, absent: Tensor) -> np.ndarray:
    """Sign and size of each value over the largest that its site ever has, on a logarithmic scale of some decades.

    In whole steps from −`_STEPS` to `_STEPS`, a byte each; `_ABSENT` where a site has no such unit.
    """
    share = (field / tops[:, None]).nan_to_num(0.0, 0.0, 0.0)
    size = (1 + share.abs().log10() / _DECADES).clamp(min=0)
    return (_STEPS * share.sign() * size).round().masked_fill(absent, _ABSENT).to(torch.int8).numpy()

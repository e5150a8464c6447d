"""Residuals, distances, cost and energy of all recorded relaxations by tick."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from worldsheet_lab.report.panel import Drawing, Panel
from worldsheet_lab.report.run import Run, sheets_of
from worldsheet_lab.report.style import COLOURS, POINTS, curve, figure, left_out, log_axis, with_legend
from worldsheet_lab.sheets import Sheet
from worldsheet_lab.subsample import subsample


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """One for all."""
    sheets = sheets_of(runs)
    if not sheets:
        return
    longest = max(len(sheet["ticks"]) for sheet in sheets.values())
    words = (
        "Totals over all sites, ‖·‖ = √Σ‖·‖². Solid: states; dashed: costates. The prediction energy ½Σ‖r‖² is what "
        "predictive coding lowers beside the cost." + left_out(longest, min(longest, POINTS), "ticks")
    )
    distances = {name: sheet for name, sheet in sheets.items() if "moments" in sheet}
    drawings = [
        _pair(sheets, "ticks", ("state_residuals", "costate_residuals"), "Residuals (norm over sites and batch)"),
        _pair(distances, "moments", ("state_distances", "costate_distances"), "Distance to rest"),
        _single(distances, "moments", {n: s["cost"] for n, s in distances.items()}, "Cost of the output state (nats)"),
        _single(
            sheets,
            "ticks",
            {name: sheet["state_residuals"].square().sum(1) / 2 for name, sheet in sheets.items()},
            "Prediction energy ½Σ‖r‖² of the batch",
        ),
    ]
    shown = tuple(drawing for drawing in drawings if len(drawing.figure.data))
    yield Panel("energy", "Residuals and energy by tick", words, shown)


def _pair(sheets: Mapping[str, Sheet], ticks: str, parts: tuple[str, str], title: str) -> Drawing:
    made = figure("tick", "")
    for colour, (name, sheet) in zip(_colours(sheets), sheets.items(), strict=True):
        for part, dash in zip(parts, ("solid", "dash"), strict=True):
            rows = subsample(len(sheet[ticks]), POINTS)
            total = sheet[part].square().sum(1).sqrt()
            more = {"legendgroup": name, "showlegend": dash == "solid", "dash": dash, "mode": "lines+markers"}
            made.add_trace(curve(sheet[ticks][rows].numpy(), total[rows].numpy(), name, colour, **more))
    log_axis(made)
    return Drawing(title, made, with_legend(made))


def _single(sheets: Mapping[str, Sheet], ticks: str, curves: Mapping[str, Tensor], title: str) -> Drawing:
    made = figure("tick", "")
    for colour, (name, values) in zip(_colours(curves), curves.items(), strict=True):
        rows = subsample(len(values), POINTS)
        x, y = sheets[name][ticks][rows].numpy(), values[rows].numpy()
        made.add_trace(curve(x, y, name, colour, mode="lines+markers"))
    log_axis(made)
    return Drawing(title, made, with_legend(made))


def _colours(names: Mapping[str, object]) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(names))]

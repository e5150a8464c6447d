"""The result of a run as tables of at most 80 columns."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_FLOOR = 1e-15  # below it 1 - cosine is the rounding of float64


def result_tables(result: Mapping[str, Any]) -> Group:
    """The two contenders, and below them every parameter's gradient."""
    parts: list[RenderableType] = [Text(_headline(result)), _contenders(result), Text(_verdict(result))]
    if result["comparisons"]:
        count = result["comparisons"]
        parts += [
            Text(f"\n  gradients by relaxation against autograd's, worst of {_count(count, 'comparison')}"),
            _gradients(result),
        ]
    return Group(*parts)


def _headline(result: Mapping[str, Any]) -> str:
    recipe = result["recipe"]
    size = f"{recipe['architecture']} of {result['sites']} sites and {result['parameters']:,} parameters"
    return f"\n  {recipe['data']}: {size}, {_count(recipe['epochs'], 'epoch')}, seed {recipe['seed']}"


def _contenders(result: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("gradients by")
    for heading in ("test\naccuracy", "test\nloss", "training\nloss", "ms per\nstep", "ticks per\nstep"):
        table.add_column(heading, justify="right")
    for name, row in result["contenders"].items():
        table.add_row(
            name,
            f"{row['test_accuracy']:.2%}",
            _loss(row["test_loss"]),
            _loss(row["train_loss"]),
            f"{1e3 * row['seconds_per_step']:.2f}",
            "-" if row["ticks"] is None else str(row["ticks"]),
        )
    return table


def _verdict(result: Mapping[str, Any]) -> str:
    difference = result["weights_difference"]
    if difference is None:
        distance = "have overflowed"
    else:
        distance = f"differ by at most {difference:.1e}" if difference else "are equal to the last bit"
    return f"  time: relaxation / autograd = {result['time_ratio']:.2f}\n  final weights {distance}"


def _gradients(result: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("parameter")
    for heading in ("1 - cosine", "relative error", "SNR"):
        table.add_column(heading, justify="right")
    cells = [(row["name"], _cells(row)) for row in result["gradients"]]
    for shown, group in groupby(cells, key=lambda cell: cell[1]):
        names = [name for name, _ in group]
        table.add_row(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, all {len(names)}", *shown)
    return table


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a row shows: neighbours that show the same are one row."""
    equal = row["snr"] is None and row["relative_error"] == 0
    return (
        "0" if equal else _small(row["one_minus_cosine"]),
        "0" if equal else "inf" if row["relative_error"] is None else f"{row['relative_error']:.1e}",
        "inf" if row["snr"] is None else f"{row['snr']:.1e}",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _small(value: float) -> str:
    return f"< {_FLOOR:.0e}" if value < _FLOOR else f"{value:.1e}"


def _loss(value: float | None) -> str:
    return "overflow" if value is None else f"{value:.4f}"

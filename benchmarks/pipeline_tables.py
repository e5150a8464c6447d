"""The results of `python -m benchmarks pipeline` as tables, with the goals beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from benchmarks.pipeline_asleep import GOAL, UNLOCKED
from benchmarks.pipeline_cases import GOAL_ONE, GOAL_TORCH
from benchmarks.timing import Spread

Row = Mapping[str, Any]


def tables(cases: Sequence[Row], asleep: Sequence[Row]) -> list[RenderableType]:
    """Rates, all that was tried, messages; last the stages that sleep."""
    found: list[RenderableType] = []
    for case in cases:
        found += [_rates(case), _tried(case), _posts(case)]
    if asleep:
        found.append(_slept(asleep))
    return found


def _table(title: str, texts: int, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < texts else "right", no_wrap=True)
    return table


def _rates(case: Row) -> Table:
    plan = " | ".join(
        f"{first + 1}..{last} {share:.0%}"
        for first, last, share in zip(case["cuts"], case["cuts"][1:], case["shares"], strict=False)
    )
    title = f"{case['case']}: {case['text']}, batch {case['batch']}, layers {plan} of the time\n"
    title += f"goals for ours: {GOAL_ONE:g} x one process with one thread, {GOAL_TORCH:g} x torch's best schedule\n"
    title += "unlocked stages from update to update, without filling and emptying; all others whole turns"
    per, tokens = ("tokens/s", case["tokens"]) if case["tokens"] > 1 else ("samples/s", 1)
    columns = ("pieces", per, "x one process", "x torch's best", "CPU ms/update")
    table = _table(title, 1, "contender: its best number of pieces, median (quartiles)", *columns)
    for row in sorted(case["rated"], key=lambda row: -row["rate"][1]):
        rate, one, torchs = (Spread(*row[name]) for name in ("rate", "over_one", "over_torch"))
        rate = Spread(*(tokens * value for value in rate))
        spreads = (_spread(rate, 0), _spread(one, 2), _spread(torchs, 2))
        table.add_row(row["name"], str(row["pieces"] or "–"), *spreads, f"{1e3 * row['work']:.1f}")
    return table


def _tried(case: Row) -> Table:
    pieces = sorted({row["pieces"] for row in case["tried"]} - {0})
    table = _table(f"{case['case']}: samples/s, every number of pieces once", 1, "contender", *map(str, pieces))
    names = dict.fromkeys(row["name"] for row in case["tried"])
    for name in names:
        rates = {row["pieces"]: row["rate"] for row in case["tried"] if row["name"] == name}
        if 0 in rates:
            continue
        table.add_row(name, *["refused" if rates[many] is None else f"{rates[many]:.0f}" for many in pieces])
    return table


def _posts(case: Row) -> Table:
    title = f"{case['case']}: what a stage sends for an update, and how long it is waited for"
    columns = ("messages", "bytes/sample", "alone ms", "waited ms", "hidden")
    table = _table(title, 3, "contender", "stage", "numbers", *columns)
    for row in case["posts"]:
        times = (f"{1e3 * row['alone']:.2f}", f"{1e3 * row['waited']:.2f}", f"{row['hidden']:.0%}")
        sent = (f"{row['messages']:g}", f"{row['bytes_per_sample']:.0f}")
        table.add_row(row["name"], str(row["stage"]), row["dtype"], *sent, *times)
    return table


def _slept(rows: Sequence[Row]) -> Table:
    nap = f"{1e3 * rows[0]['up']:g} ms on the way up, {2e3 * rows[0]['up']:g} on the way back" if rows else ""
    title = f"Stages that sleep {nap}, a process each; goal for ours: pace of the busiest stage ≥ {GOAL:.0%}"
    columns = ("stages", "flush after", "busy", "pace", "on paper", "from empty to empty")
    table = _table(title, 2, "sleeps", "order", *columns)
    for row in rows:
        flush = str(row["pieces"] or "never")
        paper = "" if row["paper"] is None else f"{row['paper']:.1%}"
        shares = (f"{row['busy']:.1%}", f"{row['pace']:.1%}", paper, f"{row['whole']:.1%}")
        bold = "bold" if row["order"] in UNLOCKED else None
        table.add_row(row["night"], row["order"], str(row["stages"]), flush, *shares, style=bold)
    return table


def _spread(values: Spread, digits: int) -> str:
    lower, median, upper = (f"{value:.{digits}f}" for value in values)
    return median if values.lower == values.upper else f"{median} ({lower}–{upper})"

"""Parameters that move at every tick, while the fields still move, learn as well as by backpropagation."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
from learning import PORTS, Case, Course, Mode, at_rest, unlocked

from experiments.harness import Cells, Findings, Record, Size, experiment

DIGITS, DEEP_DIGITS = Course("digits", 4, "tanh", 5, 32), Course("digits", 8, "tanh", 5, 32)
FASHION, DEEP_FASHION = Course("fashion-mnist", 4, "relu", 1, 128), Course("fashion-mnist", 8, "relu", 1, 128)
COURSES = (DIGITS, FASHION, DEEP_DIGITS, DEEP_FASHION)
SEEDS = {Size.SMALL: (0,), Size.FULL: (0, 1, 2)}


def cases(size: Size) -> Iterator[Case]:
    """The grid, what matters most first."""
    if size is Size.SMALL:
        yield Case(DIGITS, "inertial", 9, Mode.SILENCE)
        yield from (Case(DIGITS, "inertial", ticks, Mode.STREAM) for ticks in (1, 3, 4, 5, 9))
        return
    for port in PORTS:
        yield from (Case(course, port, 2 * course.depth + 1, Mode.SILENCE) for course in COURSES)
    for course in COURSES:
        yield Case(course, "inertial", 1, Mode.TAGGED)
        yield from (Case(course, "inertial", ticks, Mode.STREAM) for ticks in sweep(course))
    yield from (Case(DIGITS, "inertial", ticks, Mode.CARRIED) for ticks in (1, 2, 4, 8, 9, 16))
    yield from (Case(course, port, 4 * course.depth, Mode.SILENCE) for course in COURSES[::2] for port in PORTS)
    for matching in ("0.9", "0.8", "0.5", "0.2", "0"):
        yield from (Case(DIGITS, "inertial", ticks, Mode.SILENCE, f"wave {matching}") for ticks in (16, 32))


def sweep(course: Course) -> tuple[int, ...]:
    """K from 1 to 4 L; fewer of them where a tick is dear."""
    depth = course.depth
    if course is DEEP_FASHION:
        return 1, 3, depth, 2 * depth + 1
    return 1, 2, 3, depth, 2 * depth, 2 * depth + 1, 4 * depth


def rates_of(port: str, size: Size) -> tuple[float, ...]:
    """The grid in which backpropagation finds its rate; its middle where there is no time for a grid."""
    rates = PORTS[port][1]
    return rates if size is Size.FULL else rates[1:2]


def measure(size: Size, cells: Cells) -> Findings:
    """Backprop at its own best rate of a small grid (seed 0), then the unlocked cases at that very rate.

    An interrupt ends it early and records the cases that are done.
    """

    def rest(course: Course, port: str, lr: float, seed: int) -> float:
        return float(cells.get(f"rest {course.name} {port} {lr} {seed}", partial(at_rest, course, port, lr, seed)))

    def free(case: Case, lr: float, seed: int) -> float:
        key = f"{case.course.name} {case.port} {lr} {case.dynamics} K={case.ticks} {case.mode.value} {seed}"
        return float(cells.get(key, partial(unlocked, case, lr, seed)))

    best: dict[tuple[Course, str], float] = {}
    found: dict[Case, list[tuple[float, float]]] = {}
    try:
        for seed in SEEDS[size]:
            for case in cases(size):
                kind = case.course, case.port
                if kind not in best:
                    best[kind] = max(rates_of(case.port, size), key=lambda lr, kind=kind: rest(*kind, lr, 0))
                lr = best[kind]
                found.setdefault(case, []).append((rest(*kind, lr, seed), free(case, lr, seed)))
    except KeyboardInterrupt:
        if not any(found.values()):
            raise
    rows = [row(case, best[case.course, case.port], pairs) for case, pairs in found.items() if pairs]
    return Findings(figures(rows), {"cases": rows})


def row(case: Case, lr: float, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """A case with its accuracies, a pair for each seed."""
    backprop, free = ([pair[side] for pair in pairs] for side in (0, 1))
    course = {"course": case.course.name, "depth": case.course.depth}
    how = {"port": case.port, "ticks": case.ticks, "mode": case.mode.value, "dynamics": case.dynamics, "lr": lr}
    return {**course, **how, "backprop": backprop, "unlocked": free}


def gap(found: dict[str, Any]) -> float:
    """Points by which backprop is better, mean over seeds."""
    return mean(found["backprop"]) - mean(found["unlocked"])


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The gap of every case, in points."""
    return {f"gap {r['course']} {r['port']} {r['dynamics']} K={r['ticks']} {r['mode']}": gap(r) for r in rows}


def draw(record: Record, path: Path) -> None:
    """Accuracy against the ticks for which a batch is held; backprop as a line."""
    courses = list(dict.fromkeys(row["course"] for row in record.tables["cases"]))
    figure, axes = plt.subplots(1, len(courses), figsize=(3.4 * len(courses), 4.4), squeeze=False, layout="constrained")
    for axis, course in zip(axes[0], courses, strict=True):
        rows = [row for row in record.tables["cases"] if row["course"] == course]
        lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
        for found in rows:
            key = (found["port"], found["dynamics"], found["mode"])
            lines.setdefault(key, []).append((found["ticks"], mean(found["unlocked"])))
        colours = {"resistive": "C0", "inertial": "C1", "adam": "C2"}
        marks = {"stream": "o", "silence": "s", "carried": "x", "tagged": "*"}
        for (port, dynamics, mode), points in lines.items():
            style = "-" if dynamics == "dyadic" else ":"
            label = f"{port}, {mode}{'' if dynamics == 'dyadic' else ', ' + dynamics}"
            places = zip(*sorted(points), strict=True)
            axis.plot(*places, style, marker=marks[mode], color=colours[port], alpha=0.7, markersize=4, label=label)
        for port in dict.fromkeys(row["port"] for row in rows):
            level = next(mean(row["backprop"]) for row in rows if row["port"] == port)
            axis.axhline(level, color=colours[port], linewidth=0.8, linestyle="--")
        held = sorted({row["ticks"] for row in rows})
        axis.set(xscale="log", xlabel="ticks per batch K, 2 L + 1 marked", title=course)
        depth = rows[0]["depth"]
        labels = ["" if ticks == 2 * depth else str(ticks) for ticks in held]
        axis.set_xticks(held, labels, minor=False)
        axis.set_xticks([], minor=True)
        axis.axvline(2 * depth + 1, color="grey", linewidth=0.5)
    axes[0][0].set_ylabel("test accuracy, % (dashed: backprop)")
    named = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

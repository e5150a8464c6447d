"""Parameters that move at every tick, while the fields still move, learn as well as by backpropagation."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.app.data import DataSet, load
from worldsheet.app.experiments import Cells, Findings, Record, Size, experiment
from worldsheet.app.networks import Blueprint, mlp

Port = torch.optim.Optimizer
PORTS: dict[str, tuple[Callable[..., Port], tuple[float, ...]]] = {
    "resistive": (ws.ports.Resistive, (0.05, 0.1, 0.2)),
    "inertial": (partial(ws.ports.Inertial, momentum=0.9), (0.01, 0.02, 0.05)),
    "adam": (torch.optim.Adam, (0.001, 0.002, 0.004)),
}
DYNAMICS: dict[str, ws.Dynamics] = {
    "dyadic": ws.Dyadic(),
    "wave .9": ws.Wave(impedance=1.0, matching=0.9),
    "wave .8": ws.Wave(impedance=1.0, matching=0.8),
}


@dataclass(frozen=True)
class Course:
    """What is learnt: a data set, a net, how long."""

    data: str
    depth: int
    activation: str
    epochs: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.data} L={self.depth}"


DIGITS, DEEP_DIGITS = Course("digits", 4, "tanh", 5, 32), Course("digits", 8, "tanh", 5, 32)
FASHION, DEEP_FASHION = Course("fashion-mnist", 4, "relu", 1, 128), Course("fashion-mnist", 8, "relu", 1, 128)


@dataclass(frozen=True)
class Case:
    """How it is learnt: a port, held for so many ticks."""

    course: Course
    port: str
    ticks: int
    carry: bool
    dynamics: str = "dyadic"


def cases(size: Size) -> Iterator[Case]:
    """The grid, what matters most first."""
    if size is Size.SMALL:
        yield from (Case(DIGITS, "resistive", ticks, carry) for ticks, carry in ((9, False), (4, False), (9, True)))
        return
    for port in ("inertial", "resistive", "adam"):
        for course in (DIGITS, FASHION, DEEP_DIGITS, DEEP_FASHION):
            yield Case(course, port, 2 * course.depth + 1, False)
    yield from (Case(DIGITS, "resistive", ticks, False) for ticks in (1, 2, 4, 6, 8, 12, 16, 32))
    yield from (Case(DIGITS, "resistive", ticks, True) for ticks in (1, 2, 4, 8, 16, 32))
    yield from (Case(DIGITS, port, 16, False) for port in ("inertial", "adam"))
    yield from (Case(FASHION, port, 16, False) for port in ("resistive", "inertial", "adam"))
    yield from (Case(FASHION, "resistive", ticks, False) for ticks in (4, 8))
    yield Case(FASHION, "resistive", 16, True)
    yield from (Case(DIGITS, "resistive", 32, False, wave) for wave in ("wave .9", "wave .8"))


def seeds_of(course: Course, size: Size) -> tuple[int, ...]:
    """Two on the small net, one on the others."""
    return (0,) if size is Size.SMALL or course is not DIGITS else (0, 1)


@cache
def data_of(name: str) -> DataSet:
    return load(name)


def net_of(course: Course, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    data = data_of(course.data)
    return mlp(Blueprint(data.input_shape, len(data.classes), course.depth, 128, course.activation, 0.0))


def batches(course: Course, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every epoch in an order of its own; images that do not fill a batch are left to the next epoch."""
    data, generator = data_of(course.data), torch.Generator().manual_seed(seed)
    for _ in range(course.epochs):
        order = torch.randperm(len(data.train_images), generator=generator)
        for chosen in order[: len(order) // course.batch * course.batch].split(course.batch):
            yield data.train_images[chosen], data.train_labels[chosen]


@torch.no_grad()
def accuracy(net: nn.Sequential, course: Course) -> float:
    data = data_of(course.data)
    return 100 * float((net(data.test_images).argmax(1) == data.test_labels).double().mean())


def at_rest(course: Course, port: str, lr: float, seed: int) -> float:
    """Backpropagation: `ws.backward` makes its gradients, one step a batch."""
    net = net_of(course, seed)
    chain, optimizer = ws.Chain(net, nn.CrossEntropyLoss()), PORTS[port][0](net.parameters(), lr=lr)
    for x, y in batches(course, seed):
        optimizer.zero_grad()
        ws.backward(chain, x, y)
        optimizer.step()
    return accuracy(net, course)


def unlocked(case: Case, lr: float, seed: int) -> float:
    """The same net, data and rate, with K steps a batch and rates per tick.

    From silence the efforts of layer l arrive after 2L − l + 1 ticks; where fields are carried there is an effort, of
    whatever batch, at every tick.
    """
    net = net_of(case.course, seed)
    chain = ws.Chain(net, nn.CrossEntropyLoss())
    groups = [{**group, "silent": min(group["silent"], case.ticks - 1)} for group in ws.ports.by_site(chain)]
    parameters = net.parameters() if case.carry else groups
    port = ws.ports.per_tick(PORTS[case.port][0](parameters, lr=lr), case.ticks)
    fields = None
    for x, y in batches(case.course, seed):
        held = ws.unlocked(chain, x, y, port, DYNAMICS[case.dynamics], case.ticks, initial=fields)
        fields = held.fields if case.carry else None
    return accuracy(net, case.course)


def measure(size: Size, cells: Cells) -> Findings:
    """Backprop at its own best rate of a small grid, then the unlocked cases at that very rate."""
    best: dict[tuple[Course, str], tuple[float, list[float]]] = {}
    rows = []
    for case in cases(size):
        course, port, seeds = case.course, case.port, seeds_of(case.course, size)
        if (course, port) not in best:
            found = {
                lr: [
                    cells.get(f"rest {course.name} {port} {lr} {s}", partial(at_rest, course, port, lr, s))
                    for s in seeds
                ]
                for lr in PORTS[port][1]
            }
            best[course, port] = max(found.items(), key=lambda item: mean(item[1]))
        lr, rest = best[course, port]
        key = f"{course.name} {port} {lr} {case.dynamics} K={case.ticks} {'carry' if case.carry else 'onset'}"
        free = [cells.get(f"{key} {seed}", partial(unlocked, case, lr, seed)) for seed in seeds]
        rows.append(
            {**asdict(case), "course": course.name, "depth": course.depth, "lr": lr, "backprop": rest, "unlocked": free}
        )
    return Findings(figures(rows), {"cases": rows})


def gap(row: dict[str, Any]) -> float:
    """Points by which backprop is better, mean over seeds."""
    return mean(row["backprop"]) - mean(row["unlocked"])


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The gap of every case, in points."""
    return {
        f"gap {row['course']} {row['port']} {row['dynamics']} K={row['ticks']}{' carried' * row['carry']}": gap(row)
        for row in rows
    }


def draw(record: Record, path: Path) -> None:
    """Accuracy against the ticks for which a batch is held, in units of the depth; backprop as a line."""
    courses = list(dict.fromkeys(row["course"] for row in record.tables["cases"]))
    figure, axes = plt.subplots(1, len(courses), figsize=(3.4 * len(courses), 3.4), squeeze=False)
    for axis, course in zip(axes[0], courses, strict=True):
        rows = [row for row in record.tables["cases"] if row["course"] == course]
        lines: dict[tuple[str, str, bool], list[tuple[float, float]]] = {}
        for row in rows:
            key = (row["port"], row["dynamics"], row["carry"])
            lines.setdefault(key, []).append((row["ticks"] / row["depth"], mean(row["unlocked"])))
        colours = {"resistive": "C0", "inertial": "C1", "adam": "C2"}
        for (port, dynamics, carry), points in lines.items():
            style = {"dyadic": "-", "wave .9": "-.", "wave .8": ":"}[dynamics]
            label = f"{port}{'' if dynamics == 'dyadic' else ', ' + dynamics}{'' if carry else ', restarted'}"
            axis.plot(
                *zip(*sorted(points), strict=True),
                style,
                marker="o",
                markerfacecolor=colours[port] if carry else "white",
                color=colours[port],
                alpha=1 if carry else 0.6,
                markersize=4,
                label=label,
            )
        for port in dict.fromkeys(row["port"] for row in rows):
            level = mean(next(row["backprop"] for row in rows if row["port"] == port))
            axis.axhline(level, color=colours[port], linewidth=0.8, linestyle="--")
        axis.set(xscale="log", xlabel="ticks per batch / depth", title=course)
        axis.axvline(2, color="grey", linewidth=0.5)
        axis.legend(fontsize=6)
    axes[0][0].set_ylabel("test accuracy, % (dashed: backprop)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

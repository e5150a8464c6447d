"""Stages may round what they send each other to bfloat16: half the bytes, the same accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.networks import Blueprint, mlp

DTYPES: dict[str, torch.dtype | None] = {"exact": None, "bfloat16": torch.bfloat16}
BATCH, WIDTH, PACKETS = 64, 128, 4


@dataclass(frozen=True)
class Course:
    """What is learnt in how many stages, a hidden layer each."""

    data: str
    stages: int
    epochs: int
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.data} P={self.stages}"


def courses(size: Size) -> Iterator[Course]:
    if size is Size.SMALL:
        yield Course("digits", 4, 3, (0, 1))
    else:
        yield from (Course("fashion-mnist", stages, 1, (0, 1, 2)) for stages in (4, 8))


@cache
def data_of(name: str) -> DataSet:
    return load(name)


def accuracy(course: Course, messages: str, seed: int) -> float:
    """Train from the seed, M packets an update, every epoch in an order of its own; per cent of the test images."""
    torch.manual_seed(seed)
    data, generator = data_of(course.data), torch.Generator().manual_seed(seed)
    net = mlp(Blueprint(data.input_shape, len(data.classes), course.stages, WIDTH, "relu", 0.0))
    pipeline = ws.Pipeline(
        ws.Chain(net, nn.CrossEntropyLoss()),
        course.stages,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        packets_per_update=PACKETS,
        weights=ws.pipeline.Predicted(),
        messages=DTYPES[messages],
    )
    for _ in range(course.epochs):
        order = torch.randperm(len(data.train_images), generator=generator)
        packets = order[: len(order) // BATCH * BATCH].split(BATCH // PACKETS)
        pipeline.train([(data.train_images[packet], data.train_labels[packet]) for packet in packets])
    with torch.no_grad():
        return 100 * float((net(data.test_images).argmax(1) == data.test_labels).double().mean())


def measure(size: Size, cells: Cells) -> Findings:
    """The same start, data and order for every kind of message."""
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    cases = [(course, messages, seed) for course in courses(size) for seed in course.seeds for messages in DTYPES]
    cell = {case: cells.get(f"{case[0].name} {case[1]} {case[2]}", partial(accuracy, *case)) for case in cases}
    for course in courses(size):
        for messages in DTYPES:
            found = [cell[course, messages, seed] for seed in course.seeds]
            exact = next((row["accuracies"] for row in rows if row["course"] == course.name), found)
            lost = mean(one - other for one, other in zip(exact, found, strict=True))
            rows.append(
                {"course": course.name, "messages": messages, "accuracies": found, "mean": mean(found), "lost": lost}
            )
            if messages != "exact":
                figures[f"points lost {course.name} {messages}"] = lost
    return Findings(figures=figures, tables={"rows": rows})


def draw(record: Record, path: Path) -> None:
    rows = record.tables["rows"]
    names = list(dict.fromkeys(row["course"] for row in rows))
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for place, messages in enumerate(DTYPES):
        for number, name in enumerate(names):
            (row,) = [row for row in rows if (row["course"], row["messages"]) == (name, messages)]
            x = number + 0.25 * (place - 0.5)
            axes.bar(
                x,
                row["mean"],
                0.22,
                color=f"C{place}",
                label=None if number else messages,
                alpha=0.7,
                hatch="/" * (2 * place),
            )
            axes.plot([x] * len(row["accuracies"]), row["accuracies"], "k.", markersize=5)
    every = [value for row in rows for value in row["accuracies"]]
    axes.set_ylim(min(every) - 2, max(every) + 1)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("test images right, %")
    axes.set_title("Messages between stages, rounded on the way")
    figure.legend(ncols=2, loc="outside lower center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

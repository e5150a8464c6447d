"""Unlocked training keeps backprop's accuracy as stages grow, by one rule that is set from each stage's own delay."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt
import torch
from rules import Rule
from simulator import BATCH, Net, accuracies, layers_of, simulate
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet.pipeline import Locked, PipelineSchedule, Unlocked
from worldsheet_lab.data import DataSet, load

SEEDS = (0, 1, 2)
BACKPROP, GROUNDED = Rule(), Rule(centering_delay=-1)
PASSIVE = Rule(rate_power=0.5, mass_power=1, horizon=2, centering_delay=2)
IDEAS: dict[str, Rule] = {
    "current weights": Rule(keeps=False),
    "stashed weights": Rule(),
    "predicted": Rule(horizon=1),
    "predicted, pulled back through now": Rule(horizon=1, keeps=False),
    "predicted twice as far": Rule(horizon=2),
    "predicted, lr / sqrt(1 + d)": Rule(horizon=1, rate_power=0.5),
    "predicted, lr / (1 + d)": Rule(horizon=1, rate_power=1),
    "predicted, lr / (1 + d) eased (PipeMare T1)": Rule(horizon=1, rate_power=1, eases=True),
    "stashed, mass": Rule(mass_power=1),
    "predicted, mass": Rule(horizon=1, mass_power=1),
    "stashed, delay compensation 1 (DC-ASGD)": Rule(curvature=1),
    "stashed, spike compensation": Rule(spikes=True),
    "predicted, clipped at 0.5": Rule(horizon=1, clipped=0.5),
    "predicted, trust ratio (LAMB)": Rule(horizon=1, trusted=True, unit=4),
    "predicted, decay 0.1 (AdamW)": Rule(horizon=1, decay=0.1),
    "predicted, fading": Rule(horizon=1, fades=True),
    "averaged (schedule-free)": Rule(averaged=True, unit=2),
    "momentum SGD, predicted": Rule(adaptive=False, horizon=1, unit=200),
    "momentum SGD, passive": Rule(adaptive=False, rate_power=0.5, mass_power=1, horizon=2, centering_delay=2, unit=200),
    "stashed, grounded": Rule(centering_delay=2),
    "predicted, grounded": Rule(horizon=1, centering_delay=2),
    "predicted, grounded, mass": Rule(horizon=1, centering_delay=2, mass_power=1),
    "passive, not grounded": Rule(horizon=2, mass_power=1, rate_power=0.5),
    "passive, no foresight": Rule(centering_delay=2, mass_power=1, rate_power=0.5),
    "passive, predicted once": Rule(horizon=1, centering_delay=2, mass_power=1, rate_power=0.5),
    "passive, lr / (1 + d)": Rule(horizon=2, centering_delay=2, mass_power=1, rate_power=1),
    "passive, mass sqrt(1 + d)": Rule(horizon=2, centering_delay=2, mass_power=0.5, rate_power=0.5),
    "passive, every late stage grounded": Rule(horizon=2, centering_delay=0, mass_power=1, rate_power=0.5),
    "passive, grounded above one update": Rule(horizon=2, centering_delay=1, mass_power=1, rate_power=0.5),
    "passive": PASSIVE,
    "passive, fading": Rule(horizon=2, centering_delay=2, mass_power=1, rate_power=0.5, fades=True),
}


@dataclass(frozen=True)
class Case:
    """A network in stages, M packets an update, and by how many points backprop may be better."""

    net: Net
    packets: int
    goal: float

    @property
    def name(self) -> str:
        return f"{name_of(self.net)} M={self.packets}"


PLAIN, RESIDUAL = partial(Net, residual=False), partial(Net, residual=True)
HARDEST = Case(PLAIN(8), 1, 3.0)
CASES = (
    Case(PLAIN(4), 1, 0.5),
    Case(PLAIN(8), 8, 0.3),
    Case(PLAIN(8), 4, 0.5),
    HARDEST,
    Case(RESIDUAL(8), 1, 1.0),
    Case(RESIDUAL(16), 4, 0.5),
    Case(RESIDUAL(32), 8, 1.0),
)
DIGITS = Case(PLAIN(6), 1, 2.0)


@dataclass(frozen=True)
class Course:
    """What is learnt from, for how long, and which rates backprop may choose from."""

    data: str
    epochs: int
    lrs: tuple[float, ...]


COURSES = {
    Size.SMALL: Course("digits", 15, (1e-3, 2e-3)),
    Size.FULL: Course("fashion-mnist", 1, (1e-3, 2e-3, 5e-4, 2.5e-4)),
}


def name_of(net: Net) -> str:
    return f"{'residual' if net.residual else 'plain'} P={net.stages}"


@cache
def data_of(name: str) -> DataSet:
    return load(name)


def order_of(course: Course, seed: int) -> Callable[[int], Tensor]:
    """Indices of the images of a batch, every epoch in an order of its own."""
    images, generator = len(data_of(course.data).train_images), torch.Generator().manual_seed(seed)
    each = images // BATCH
    orders = torch.cat([torch.randperm(images, generator=generator)[: each * BATCH] for _ in range(course.epochs)])
    return lambda number: orders[number * BATCH : (number + 1) * BATCH]


def trained(course: Course, net: Net, rule: Rule, order: PipelineSchedule, lrs: tuple[float, ...]) -> list[list[float]]:
    """Test accuracies by rate and seed after all epochs."""
    data = data_of(course.data)
    layers = layers_of([net.start(data, seed) for seed in SEEDS], rule, order, lrs)
    updates = course.epochs * (len(data.train_images) // BATCH)
    simulate(net, data, layers, rule.keeps, [order_of(course, seed) for seed in SEEDS], updates)
    found = accuracies(net, data, layers)
    return [found[at : at + len(SEEDS)] for at in range(0, len(found), len(SEEDS))]


class Hidden(nn.Module):
    """x + relu(W x + b)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.linear(x).relu()
        return out


def simulator_error(net: Net, packets: int, updates: int = 12) -> float:
    """Largest relative distance of a layer's parameters to those of `worldsheet.Pipeline`, float64, passive."""
    course, order = COURSES[Size.SMALL], Unlocked(packets)
    data = data_of(course.data)
    start = [layer.double() for layer in net.start(data, 0)]
    layers = layers_of([start], PASSIVE, order, (1e-2,))
    batch = order_of(course, 0)
    simulate(net, data, layers, PASSIVE.keeps, [batch], updates)

    sites: list[nn.Module] = [
        Hidden(layer) if net.skips(index) else nn.Sequential(layer, nn.ReLU()) for index, layer in enumerate(start[:-1])
    ]
    chain = ws.Chain(nn.Sequential(*sites, start[-1]), nn.CrossEntropyLoss())
    make = partial(torch.optim.Adam, lr=1e-2)
    images = data.train_images.reshape(len(data.train_images), -1).double()
    chosen = [part for number in range(updates) for part in batch(number).tensor_split(packets)]
    pipeline = ws.Pipeline(chain, net.stages, optimizer=make, schedule=order)
    pipeline.train([(images[part], data.train_labels[part]) for part in chosen])
    errors = []
    for layer, mine in zip(start, layers, strict=True):
        theirs = torch.cat([layer.weight.flatten(), layer.bias]).detach()
        errors.append(float((mine.answer.parameters[0] - theirs).norm() / theirs.norm()))
    return max(errors)


def best_of(cells: Cells, course: Course, net: Net, name: str, rule: Rule) -> tuple[float, list[float]]:
    """The rate of backprop's best mean, and its accuracies."""
    found = {
        lr: cells.get(f"{name} {name_of(net)} {lr:g}", lambda lr=lr: trained(course, net, rule, Locked(1), (lr,))[0])
        for lr in course.lrs
    }
    return max(found.items(), key=lambda item: mean(item[1]))


def measure(size: Size, cells: Cells) -> Findings:
    """Every case with the passive rule at backprop's own best rate; then the ideas, each at its own best rate."""
    course, cases = COURSES[size], CASES if size is Size.FULL else (DIGITS,)
    hardest = HARDEST if size is Size.FULL else DIGITS
    ideas = IDEAS if size is Size.FULL else {name: IDEAS[name] for name in ("current weights", "predicted", "passive")}
    rows = []
    for case in cases:
        lr, backprop = best_of(cells, course, case.net, "backprop", BACKPROP)
        run = partial(trained, course, case.net, PASSIVE, Unlocked(case.packets), (lr,))
        passive = cells.get(f"passive {case.name} {lr:g}", lambda run=run: run()[0])
        rows.append(
            {
                "case": case.name,
                "goal": case.goal,
                "lr": lr,
                "backprop": backprop,
                "passive": passive,
            }
        )
    for case, row in zip(cases, rows, strict=True):
        row["grounded lr"], row["grounded backprop"] = best_of(cells, course, case.net, "grounded backprop", GROUNDED)
    tried = []
    for name, rule in ideas.items():
        lrs = course.lrs[1:3] if size is Size.FULL else course.lrs
        run = partial(trained, course, hardest.net, rule, Unlocked(hardest.packets), lrs)
        tried.append({"idea": name, "lrs": lrs, "accuracies": cells.get(f"idea {hardest.name} {name}", run)})
    figures = {f"gap {row['case']}": mean(row["backprop"]) - mean(row["passive"]) for row in rows}
    figures |= {f"gap to grounded {row['case']}": mean(row["grounded backprop"]) - mean(row["passive"]) for row in rows}
    checked = cells.get("simulator", lambda: [simulator_error(PLAIN(4), 1), simulator_error(RESIDUAL(6), 4)])
    return Findings({**figures, "simulator error": max(checked)}, {"cases": rows, "ideas": tried})


def draw(record: Record, path: Path) -> None:
    """Left: accuracy of every case beside backprop's. Right: what each idea reaches in the hardest case."""
    rows, ideas = record.tables["cases"], record.tables["ideas"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(1, 1.3))
    for index, row in enumerate(rows):
        for shift, name, colour in ((-0.15, "backprop", "C7"), (0.15, "passive", "C0")):
            at = [index + shift] * len(row[name])
            left.plot(at, row[name], ".", color=colour, alpha=0.5)
            left.plot(at[0], mean(row[name]), "_", color=colour, markersize=14, label=None if index else name)
    left.set_xticks(range(len(rows)), [row["case"] for row in rows], rotation=40, ha="right", fontsize=7)
    left.set_ylabel("test accuracy, %")
    left.legend()
    names = [row["idea"] for row in ideas]
    best = [max(mean(seeds) for seeds in row["accuracies"]) for row in ideas]
    low = max(0.0, min(best) - 3)
    bars = right.barh(
        names, [value - low for value in best], left=low, color=["C0" if "passive" in n else "C7" for n in names]
    )
    right.bar_label(bars, [f"{value:.1f}" for value in best], fontsize=7, padding=2)
    hardest = next((row for row in rows if row["case"] == HARDEST.name), rows[0])
    right.axvline(mean(hardest["backprop"]), color="black", linewidth=0.8, linestyle="--")
    right.set(title=f"{hardest['case']}: each idea at its best rate; dashed: backprop", xlabel="test accuracy, %")
    right.title.set_fontsize(9)
    right.tick_params(axis="y", labelsize=7)
    right.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

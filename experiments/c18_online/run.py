"""Online learning in real time against BPTT, real-time recurrent learning and eligibility traces, on equal networks."""

import math
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from benchmarks.timing import Stopwatch, in_turns
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet.streaming import HamiltonianNetwork

sys.path.insert(0, str(Path(__file__).parent))  # the parts of this experiment

import real_time
import tasks
from baselines import Adam, Descent, Eligibility, Learner, Momentum, RealTime, Truncated
from real_time import RULES, SLOW, Rule
from stability import TOPOLOGIES, TRACKS, tracking_error
from tasks import Task

MOMENTUM = 0.9


class Baseline(NamedTuple):
    """A method of others.

    Attributes:
        kind: how gradients are found.
        window: steps per gradient, for `Truncated`.
        adam: whether weights descend by Adam.
        hidden: neurons that are neither inputs nor outputs.
    """

    kind: type[Learner]
    window: int = 1
    adam: bool = False
    hidden: int = 24


METHODS: dict[str, Rule | Baseline] = {
    **RULES,
    "BPTT 1": Baseline(Truncated, 1),
    "BPTT 16": Baseline(Truncated, 16),
    "BPTT 64": Baseline(Truncated, 64),
    "RTRL": Baseline(RealTime),
    "eligibility": Baseline(Eligibility),
    "BPTT 16, Adam": Baseline(Truncated, 16, adam=True),
    "eligibility, Adam": Baseline(Eligibility, adam=True),
    "BPTT 16, Adam, 96 neurons": Baseline(Truncated, 16, adam=True, hidden=96),
}
LARGE = "MNIST by rows"
ON_FEW = {
    SLOW: set(tasks.SERIES),
    "RTRL": set(tasks.SERIES),  # up to 25 times as long as the others: see costs
    "sender memory, θ = 4": {LARGE, *tasks.SERIES},
    "element-wise layer, RMS": {LARGE, *tasks.SERIES},
    "sender memory, RMS, 96 neurons": {LARGE},
    "BPTT 16, Adam, 96 neurons": {LARGE},
}
"""The tasks on which a method is measured, if not on all."""
GRID = {False: [0.03, 0.1, 0.3, 1.0], True: [0.003, 0.01, 0.03, 0.1]}
SCALED = [0.0003, 0.001, 0.003, 0.01]
"""Rates of Adam and of `RmsScaled`."""
SEEDS, TRIALS = [0, 1, 2], [3, 4, 5]
STEPS = {Size.SMALL: 2000, Size.FULL: 20000}
DARK = 0.25  # on the map of stability, letters turn white
TRIAL_STEPS = 4000  # at most, to choose a rate


def measure(size: Size, cells: Cells) -> Findings:
    """Progressive errors of every method at its rate, what a step costs and keeps, and where tracking is stable."""
    makers = {Size.SMALL: tasks.SMALL, Size.FULL: tasks.FULL}[size]
    rows = []
    for method, (name, maker) in product(METHODS, makers.items()):
        if not tried_on(method, name, size):
            continue
        found = cells.get(f"{name}: {method}, judged on other seeds", partial(with_loss, maker, method, STEPS[size]))
        rows.append({"task": name, "method": method, **found, "error": median(found["errors"])})
    costs = [
        {"task": name, **row}
        for name, maker in makers.items()
        for row in cells.get(f"{name}: costs", partial(step_costs, maker))
    ]
    sizes, speeds, thetas = {
        Size.SMALL: ([5, 20], [10.0, 200.0], [2.0, 20.0]),
        Size.FULL: ([5, 20, 80], [2.0, 10.0, 50.0, 200.0], [2.0, 20.0, 100.0]),
    }[size]
    stable = [
        cells.get(f"stable n={place[0]} {place[1]} c={place[2]:g} θ={place[3]:g}", partial(tracking_error, *place))
        for place in product(sizes, TOPOLOGIES, speeds, thetas)
    ]
    figures = {f"{row['task']}: {row['method']}": row["error"] for row in rows}
    figures["stable_share"] = fmean(row["error"] is not None and row["error"] < TRACKS for row in stable)
    return Findings(figures=figures, tables={"methods": rows, "costs": costs, "stability": stable})


def tried_on(method: str, task: str, size: Size) -> bool:
    """Whether a method is measured on a task; what is slow or many is measured at full size only."""
    return task in ON_FEW.get(method, {task}) and not (method == SLOW and size is Size.SMALL)


def grid(method: str, task: Task) -> list[float]:
    """The rates that are tried."""
    how = METHODS[method]
    if isinstance(how, Baseline):
        return SCALED if how.adam else GRID[task.classes]
    return [how.first * rate for rate in (GRID[task.classes] if how.port(1.0, 1).derived else SCALED)]


def with_loss(maker: Callable[[int], Task], method: str, steps: int) -> dict[str, Any]:
    """Errors of three seeds at the rate that was best, on average, on three others, on the stream's first steps."""
    task = maker(steps)
    trial = Task(task.inputs[:TRIAL_STEPS], task.targets[:TRIAL_STEPS], task.classes)
    rates = grid(method, task)
    found = errors(trial, method, list(product(rates, TRIALS)))
    tried = [fmean(found[k : k + len(TRIALS)]) for k in range(0, len(found), len(TRIALS))]
    rate = rates[tried.index(min(tried))]
    found = errors(task, method, [(rate, seed) for seed in SEEDS])
    return {"errors": found, "rate": rate, "tried": tried}


def errors(task: Task, method: str, systems: list[tuple[float, int]]) -> list[float]:
    """One per system, which is a rate and a seed."""
    how = METHODS[method]
    if isinstance(how, Rule):
        rates = dict.fromkeys(rate for rate, _ in systems)
        by_rate = [(rate, [seed for own, seed in systems if own == rate]) for rate in rates]
        parts = [real_time.answers(task, how, rate, seeds) for rate, seeds in by_rate]
        answers = torch.cat(parts, 1)
    else:
        learner = learning(task, how, systems)
        with torch.no_grad():
            answers = torch.stack([learner.step(u, y) for u, y in zip(task.inputs, task.targets, strict=True)])
    return [error(task, answers[:, number]) for number in range(len(systems))]


def learning(task: Task, how: Baseline, systems: list[tuple[float, int]]) -> Learner:
    """A baseline, all systems at once."""
    rates = torch.tensor([rate for rate, _ in systems])
    descent: Descent = Adam(rates) if how.adam else Momentum(rates / task.inputs.shape[1], MOMENTUM)
    reach = 1 - torch.exp(-real_time.speeds(how.hidden, task.targets.shape[-1], None))
    learner = how.kind(task, reach, descent, [seed for _, seed in systems])
    if isinstance(learner, Truncated):
        learner.window = how.window
    return learner


def error(task: Task, answers: Tensor) -> float:
    """Over the last quarter of the stream: root mean square over the signal's own, or the part of wrong classes."""
    first = len(answers) * 3 // 4
    output, target = answers[first:], task.targets[first:]
    if task.classes:
        told = ~target[..., 0].isnan()
        return float((output.argmax(-1) != target.argmax(-1))[told].float().mean())
    value = float((output - target).square().mean().sqrt() / target.std())
    return min(value, 10.0) if math.isfinite(value) else 10.0


@torch.no_grad()
def step_costs(maker: Callable[[int], Task]) -> list[dict[str, Any]]:
    """Seconds per step of one system, in turns of 64 steps, and numbers kept for learning beside states and weights."""
    task = maker(64)
    told = real_time.labels(task)
    small = {name: how for name, how in METHODS.items() if name != SLOW and how.hidden == RULES[SLOW].hidden}
    networks = {name: real_time.built(task, how, 0.001, [0]) for name, how in small.items() if isinstance(how, Rule)}
    learners = {
        name: learning(task, how, [(0.001, 0)])
        for name, how in small.items()
        if isinstance(how, Baseline) and not how.adam
    }

    def ours(network: HamiltonianNetwork) -> None:
        for u, y in zip(task.inputs, told, strict=True):
            network.step(u, y, 1.0)

    def theirs(learner: Learner) -> None:
        for u, y in zip(task.inputs, task.targets, strict=True):
            learner.step(u, y)

    turns = {name: partial(ours, network) for name, network in networks.items()}
    turns |= {name: partial(theirs, learner) for name, learner in learners.items()}
    taken = in_turns(turns, 5, Stopwatch())
    stored = {name: kept_by(network) for name, network in networks.items()}
    stored |= {name: each.stored for name, each in learners.items()}
    return [{"method": name, "seconds": median(taken[name]) / 64, "stored": stored[name]} for name in turns]


def kept_by(network: HamiltonianNetwork) -> int:
    """Costates and traces."""
    return network.point.costate.numel() + network.edge_state.traces.numel()


def draw(record: Record, path: Path) -> None:
    """Errors by task and method with every seed, what a step costs and keeps, and the map of stability."""
    figure = Figure(figsize=(16, 10), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    above, middle, below = figure.subfigures(3, 1, height_ratios=[1.2, 0.7, 1])
    draw_errors(record, above)
    draw_costs(record, middle)
    draw_stability(record, below)
    figure.savefig(path)


def draw_errors(record: Record, part: SubFigure) -> None:
    names = list(dict.fromkeys(row["task"] for row in record.tables["methods"]))
    for axes, task in zip(part.subplots(1, len(names)), names, strict=True):
        rows = [row for row in record.tables["methods"] if row["task"] == task]
        colors = ["C1" if row["method"] in RULES else "C0" for row in rows]
        axes.barh([row["method"] for row in rows], [row["error"] for row in rows], color=colors)
        for place, row in enumerate(rows):
            axes.plot(row["errors"], [place] * len(row["errors"]), "k.", ms=4)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("error / signal" if task in tasks.SERIES else "part of wrong classes", fontsize=8)
        axes.set_xlim(0, min(axes.get_xlim()[1], 2.2 * max(row["error"] for row in rows), 1.0))
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()


def draw_costs(record: Record, part: SubFigure) -> None:
    """Each point is a method on a task: numbers kept against time per step over ours."""
    (axes,) = part.subplots(1, 1, squeeze=False)[0]
    rows = record.tables["costs"]
    own = {row["task"]: row["seconds"] for row in rows if row["method"] == "real time, θ = 4"}
    for method, marker in zip(dict.fromkeys(row["method"] for row in rows), "os^DvPX", strict=False):
        points = [(row["seconds"] / own[row["task"]], row["stored"]) for row in rows if row["method"] == method]
        axes.plot(*zip(*points, strict=True), marker, label=method, ms=5)
    axes.set(xscale="log", yscale="log", xlabel="time per step over ours", ylabel="numbers kept for learning")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(alpha=0.3)


def draw_stability(record: Record, part: SubFigure) -> None:
    rows = record.tables["stability"]
    sizes = sorted({row["neurons"] for row in rows})
    for axes, n in zip(part.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        own = [row for row in rows if row["neurons"] == n]
        columns = sorted({(row["speed"], row["theta"]) for row in own})
        grid = [[math.nan] * len(columns) for _ in TOPOLOGIES]
        for row in own:
            value = math.nan if row["error"] is None else row["error"]
            grid[TOPOLOGIES.index(row["topology"])][columns.index((row["speed"], row["theta"]))] = value
        axes.imshow(grid, cmap="viridis_r", vmin=0, vmax=0.45, aspect="auto")
        axes.grid(visible=False)
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                text = "–" if math.isnan(value) else f"{value:.2f}".lstrip("0")
                colour = "white" if value > DARK else "black"
                axes.text(x, y, text, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(columns)), [f"{c:g}\n{theta:g}" for c, theta in columns], fontsize=7)
        axes.set_yticks(range(len(TOPOLOGIES)), TOPOLOGIES, fontsize=8)
        axes.set_title(f"tracking error, {n} neurons", fontsize=9)
        axes.set_xlabel("speed c over dissipation θ (1/s)", fontsize=8)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

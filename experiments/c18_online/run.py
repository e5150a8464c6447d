"""Online learning in real time against BPTT, real-time recurrent learning and eligibility traces, on equal networks."""

import math
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from benchmarks.timing import Stopwatch, in_turns
from experiments.harness import Cells, Findings, Record, Size, experiment

sys.path.insert(0, str(Path(__file__).parent))  # the parts of this experiment

import real_time
import tasks
from baselines import Eligibility, Learner, RealTime, Truncated
from stability import TOPOLOGIES, TRACKS, tracking_error
from tasks import Task

HIDDEN, MOMENTUM = 24, 0.9
SLOW = "real time, θ = 0.1"
OURS = {"real time, θ = 4": 4.0, SLOW: 0.1}
METHODS = [*OURS, "BPTT 1", "BPTT 16", "BPTT 64", "RTRL", "eligibility"]
GRID = {False: [0.03, 0.1, 0.3, 1.0], True: [0.003, 0.01, 0.03, 0.1]}
DISCOUNT = 3  # our efforts at the outputs are c/(c + θ) of a gradient, so our grids begin and end so much higher
SEEDS, TRIALS = [0, 1, 2], [3, 4, 5]
STEPS = {Size.SMALL: 2000, Size.FULL: 20000}
DARK = 0.25  # on the map of stability, letters turn white
TRIAL_STEPS = 4000  # at most, to choose a rate


def measure(size: Size, cells: Cells) -> Findings:
    """Progressive errors of every method at its rate, what a step costs and keeps, and where tracking is stable."""
    makers = {Size.SMALL: tasks.SMALL, Size.FULL: tasks.FULL}[size]
    rows = []
    for (name, maker), method in product(makers.items(), METHODS):
        if method == "RTRL" and name not in tasks.SERIES:
            continue  # it takes up to 25 times as long as the others: see costs
        if method == SLOW and (size is Size.SMALL or name not in tasks.SERIES):
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


def reach(task: Task) -> Tensor:
    """1 − e^{−c} of hidden neurons, slow ones to remember and fast ones to answer, and of outputs; c per step."""
    speeds = torch.cat([torch.logspace(-1.3, 0.5, HIDDEN), torch.full((task.targets.shape[-1],), 3.0)])
    return 1 - torch.exp(-speeds)


def with_loss(maker: Callable[[int], Task], method: str, steps: int) -> dict[str, Any]:
    """Errors of three seeds at the rate that was best, on average, on three others, on the stream's first steps."""
    task = maker(steps)
    trial = Task(task.inputs[:TRIAL_STEPS], task.targets[:TRIAL_STEPS], task.classes)
    rates = [rate * (DISCOUNT if method in OURS else 1) for rate in GRID[task.classes]]
    found = errors(trial, method, list(product(rates, TRIALS)))
    tried = [fmean(found[k : k + len(TRIALS)]) for k in range(0, len(found), len(TRIALS))]
    rate = rates[tried.index(min(tried))]
    found = errors(task, method, [(rate, seed) for seed in SEEDS])
    return {"errors": found, "rate": rate, "tried": tried}


def errors(task: Task, method: str, systems: list[tuple[float, int]]) -> list[float]:
    """One per system, which is a rate and a seed."""
    if method in OURS:
        rates = dict.fromkeys(rate for rate, _ in systems)
        by_rate = [(rate, [seed for own, seed in systems if own == rate]) for rate in rates]
        parts = [real_time.answers(task, OURS[method], reach(task), rate, seeds) for rate, seeds in by_rate]
        answers = torch.cat(parts, 1)
    else:
        learner = learning(task, method, systems)
        with torch.no_grad():
            answers = torch.stack([learner.step(u, y) for u, y in zip(task.inputs, task.targets, strict=True)])
    return [error(task, answers[:, number]) for number in range(len(systems))]


def learning(task: Task, method: str, systems: list[tuple[float, int]]) -> Learner:
    """A baseline, all systems at once."""
    kind = {"RTRL": RealTime, "eligibility": Eligibility}.get(method, Truncated)
    rates = torch.tensor([rate for rate, _ in systems]) / task.inputs.shape[1]
    learner: Learner = kind(task, HIDDEN, reach(task), MOMENTUM, rates, [seed for _, seed in systems])
    if isinstance(learner, Truncated):
        learner.window = int(method.split()[1])
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
    network = real_time.built(task, 4.0, reach(task), 0.01, [0])
    learners = {method: learning(task, method, [(0.001, 0)]) for method in METHODS if method not in OURS}

    def ours() -> None:
        for u, y in zip(task.inputs, told, strict=True):
            network.step(u, y, 1.0)

    def theirs(learner: Learner) -> None:
        for u, y in zip(task.inputs, task.targets, strict=True):
            learner.step(u, y)

    turns = {"real time": ours, **{method: partial(theirs, learner) for method, learner in learners.items()}}
    taken = in_turns(turns, 5, Stopwatch())
    stored = {"real time": network.point.costate.numel()} | {name: each.stored for name, each in learners.items()}
    return [{"method": name, "seconds": median(taken[name]) / 64, "stored": stored[name]} for name in turns]


def draw(record: Record, path: Path) -> None:
    """Errors by task and method with every seed, what a step costs and keeps, and the map of stability."""
    figure = Figure(figsize=(13, 9), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    above, middle, below = figure.subfigures(3, 1, height_ratios=[1, 0.8, 1])
    draw_errors(record, above)
    draw_costs(record, middle)
    draw_stability(record, below)
    figure.savefig(path)


def draw_errors(record: Record, part: SubFigure) -> None:
    names = list(dict.fromkeys(row["task"] for row in record.tables["methods"]))
    for axes, task in zip(part.subplots(1, len(names)), names, strict=True):
        rows = [row for row in record.tables["methods"] if row["task"] == task]
        colors = ["C1" if row["method"] in OURS else "C0" for row in rows]
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
    own = {row["task"]: row["seconds"] for row in rows if row["method"] == "real time"}
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

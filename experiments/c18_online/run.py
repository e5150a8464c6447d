"""Online learning in real time against BPTT, real-time recurrent learning and eligibility traces, on equal networks."""

import math
import sys
import time
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from worldsheet import streaming
from worldsheet.app.experiments import Cells, Findings, Record, Size, experiment

sys.path.insert(0, str(Path(__file__).parent))  # the parts of this experiment

from baselines import Eligibility, Learner, RealTime, Truncated
from tasks import GAIN, TASKS, Task

HIDDEN, MOMENTUM = 24, 0.9
OURS = {"real time, θ = 4": 4.0, "real time, θ = 0.1": 0.1}
METHODS = [*OURS, "BPTT 1", "BPTT 16", "BPTT 64", "RTRL", "eligibility"]
GRID = {False: [0.03, 0.1, 0.3, 1.0], True: [0.003, 0.01, 0.03, 0.1]}
DISCOUNT = 3  # our efforts at the outputs are c/(c + θ) of a gradient, so our grids begin and end so much higher
SEEDS = [0, 1, 2]
SIZES, TOPOLOGIES = [5, 20, 80], ["dense", "small world", "random"]


def measure(size: Size, cells: Cells) -> Findings:
    """Progressive errors of every method at its best rate, costs, memory over time, and where tracking is stable."""
    steps = {Size.SMALL: 3000, Size.FULL: 30000}[size]
    rows = []
    for name in TASKS:
        for method in METHODS:
            if size is Size.SMALL and method == "RTRL" and name == "digits by rows":
                continue  # a hundred times the cost of the others
            rows.append(
                {
                    "task": name,
                    "method": method,
                    **cells.get(f"{name}: {method}, own speeds", partial(best, name, method, steps)),
                }
            )
    speeds, thetas = (
        ([10.0, 200.0], [2.0, 20.0]) if size is Size.SMALL else ([2.0, 10.0, 50.0, 200.0], [2.0, 20.0, 100.0])
    )
    sizes = SIZES[:2] if size is Size.SMALL else SIZES
    places = [(n, t, c, theta) for n in sizes for t in TOPOLOGIES for c in speeds for theta in thetas]
    stable = [cells.get(f"stable n={n} {t} c={c:g} θ={h:g}", partial(stability, n, t, c, h)) for n, t, c, h in places]
    figures = {f"{row['task']}: {row['method']}": row["error"] for row in rows}
    figures["stable_share"] = fmean(row["error"] is not None and row["error"] < 0.2 for row in stable)
    return Findings(figures=figures, tables={"methods": rows, "stability": stable})


def speeds(outputs: int) -> Tensor:
    """Of hidden neurons, slow ones to remember and fast ones to answer, and of outputs; per step of the stream."""
    return torch.cat([torch.logspace(-1.3, 0.5, HIDDEN), torch.full((outputs,), 3.0)])


def best(name: str, method: str, steps: int) -> dict[str, Any]:
    """The rate of the grid whose error at the end is smallest on average over the seeds; every method may choose."""
    task = TASKS[name](steps)
    rates = [rate * (DISCOUNT if method in OURS else 1) for rate in GRID[task.classes]]
    systems = [(rate, seed) for rate in rates for seed in SEEDS]
    begun = time.perf_counter()
    errors = ours(task, OURS[method], systems) if method in OURS else theirs(task, method, systems)
    seconds = (time.perf_counter() - begun) / steps / len(systems)
    by_rate = {rate: [e for e, (r, _) in zip(errors, systems, strict=True) if r == rate] for rate in rates}
    rate = min(rates, key=lambda rate: fmean(by_rate[rate]))
    return {"error": fmean(by_rate[rate]), "errors": by_rate[rate], "rate": rate, "seconds_per_step": seconds}


def error(task: Task, answers: Tensor) -> float:
    """Over the last quarter of the stream: root mean square over the signal's own, or the part of wrong classes."""
    first = len(answers) * 3 // 4
    output, target = answers[first:], task.targets[first:]
    if task.classes:
        told = ~target[..., 0].isnan()
        return float((output.argmax(-1) != target.argmax(-1))[told].float().mean())
    value = float((output - target).square().mean().sqrt() / target.std())
    return min(value, 10.0) if math.isfinite(value) else 10.0


def theirs(task: Task, method: str, systems: list[tuple[float, int]]) -> list[float]:
    """All systems at once."""
    kind = {"RTRL": RealTime, "eligibility": Eligibility}.get(method, Truncated)
    rates = torch.tensor([rate for rate, _ in systems]) / task.inputs.shape[1]
    reach = 1 - torch.exp(-speeds(task.targets.shape[-1]))
    learner: Learner = kind(task, HIDDEN, reach, MOMENTUM, rates, [seed for _, seed in systems])
    if isinstance(learner, Truncated):
        learner.window = int(method.split()[1])
    with torch.no_grad():
        answers = torch.stack([learner.step(u, target) for u, target in zip(task.inputs, task.targets, strict=True)])
    return [error(task, answers[:, system]) for system in range(len(systems))]


def ours(task: Task, theta: float, systems: list[tuple[float, int]]) -> list[float]:
    """One system after the other, from the same weights as the others'."""
    found = []
    for rate, seed in systems:
        network = built(task, theta, rate, seed)
        labels = task.targets.nan_to_num(-1).argmax(-1).where(~task.targets[..., 0].isnan(), -1)
        answers = []
        for u, numbers, label in zip(task.inputs, task.targets, labels, strict=True):
            answers.append(network.step(u, label if task.classes else numbers, 1.0).output)
        found.append(error(task, torch.stack(answers)))
    return found


def built(task: Task, theta: float, rate: float, seed: int) -> streaming.HamiltonianNetwork:
    """Inputs, then hidden neurons, then outputs, all connected to all."""
    streams, inputs = task.inputs.shape[1:]
    outputs = task.targets.shape[-1]
    n = inputs + HIDDEN + outputs
    potential = streaming.CrossEntropy(GAIN) if task.classes else streaming.Squared()
    network = streaming.HamiltonianNetwork(
        streaming.Dense(n, self_loops=True),
        range(n - outputs, n),
        range(inputs),
        medium=streaming.Medium(torch.cat([torch.ones(inputs), speeds(outputs)])),
        functional=streaming.Functional(potential, mass=streams / (rate * theta), dissipation=theta),
        streams=streaming.Streams(streams),
    )
    drawn = torch.randn(n - inputs, n + 1, generator=torch.Generator().manual_seed(seed)) / math.sqrt(n + 1)
    weights = torch.zeros(n + 1, n + 1)
    weights[inputs:-1] = drawn
    network.point = network.point._replace(weights=weights)
    return network


def stability(n: int, topology: str, speed: float, theta: float) -> dict[str, Any]:
    """Error of tracking 0.6 sin(t/2) in the second half of 12 seconds, median of three seeds; None if any diverged."""
    generator = torch.Generator().manual_seed(0)
    degree = min(8, (n - 1) // 2)
    graphs: dict[str, streaming.Connectivity] = {
        "dense": streaming.Dense(n, self_loops=True),
        "small world": streaming.small_world(n, degree, 0.1, generator),
        "random": streaming.random(n, degree, generator),
    }
    network = streaming.HamiltonianNetwork(
        graphs[topology],
        [0],
        medium=streaming.Medium(speed),
        functional=streaming.Functional(mass=0.1 / theta, dissipation=theta),
        streams=streaming.Streams(3, shared=False),
    )
    squares = []
    for step in range(1200):
        wanted = torch.full((3, 1), 0.6 * math.sin((step + 1) * 0.01 / 2))
        squares.append((network.step(None, wanted, 0.01).output - wanted).square()[:, 0])
    late = torch.stack(squares[600:]).mean(0).sqrt()
    value = float(late.median()) if bool(late.isfinite().all()) else None
    return {"neurons": n, "topology": topology, "speed": speed, "theta": theta, "error": value}


def draw(record: Record, path: Path) -> None:
    """Errors by task and method with every seed, and the map of stability."""
    figure = Figure(figsize=(11, 6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1)
    for axes, task in zip(above.subplots(1, len(TASKS)), TASKS, strict=True):
        rows = [row for row in record.tables["methods"] if row["task"] == task]
        colors = ["C1" if row["method"] in OURS else "C0" for row in rows]
        axes.barh([row["method"] for row in rows], [row["error"] for row in rows], color=colors)
        for place, row in enumerate(rows):
            axes.plot(row["errors"], [place] * len(row["errors"]), "k.", ms=4)
        axes.set(title=task, xlabel="part of wrong classes" if "digits" in task else "error / signal")
        axes.invert_yaxis()
    rows = record.tables["stability"]
    sizes = sorted({row["neurons"] for row in rows})
    for axes, n in zip(below.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        own = [row for row in rows if row["neurons"] == n]
        columns = sorted({(row["speed"], row["theta"]) for row in own})
        grid = [[math.nan] * len(columns) for _ in TOPOLOGIES]
        for row in own:
            value = math.nan if row["error"] is None else row["error"]
            grid[TOPOLOGIES.index(row["topology"])][columns.index((row["speed"], row["theta"]))] = value
        axes.imshow(grid, cmap="viridis_r", vmin=0, vmax=0.45, aspect="auto")
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                axes.text(x, y, "–" if math.isnan(value) else f"{value:.2f}", ha="center", va="center", fontsize=7)
        axes.set_xticks(range(len(columns)), [f"{c:g}\n{theta:g}" for c, theta in columns], fontsize=7)
        axes.set_yticks(range(len(TOPOLOGIES)), TOPOLOGIES, fontsize=8)
        axes.set(title=f"tracking error, {n} neurons", xlabel="speed c over dissipation θ (1/s)")
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

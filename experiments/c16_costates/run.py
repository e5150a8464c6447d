"""Costates that are a network of the state, against the sign flip, on a linear-quadratic problem and on tracking."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet import streaming
from worldsheet.streaming import CostateNetwork
from worldsheet_lab.plots import CURVES, plain_log

PLANTS, HORIZON, COARSE = [-1.0, -0.5, 0.5], 8.0, 0.01
NEURONS, SPEED, THETA, MASS, DT = 2, 50.0, 20.0, 0.005, 0.004
SIZE = NEURONS + NEURONS * (NEURONS + 1)
SEEDS = {Size.SMALL: [0, 1], Size.FULL: [0, 1, 2, 3, 4]}
SECONDS = {Size.SMALL: 12.0, Size.FULL: 24.0}
WINDOWS = 6
DIVERGED = 1e6


def measure(size: Size, cells: Cells) -> Findings:
    """Costs over the optimum on ẋ = a x + u, and errors of tracking 0.6 sin(t/2) over time."""
    costs = [
        {"a": a, "costate": name, "cost": cells.get(f"lq a={a:g} {name}", partial(cost, a, make))}
        for a, (name, make) in product(PLANTS, LQ.items())
    ]
    tracked = []
    for name, run in TRACKERS.items():
        rows = [cells.get(f"track {name} seed={seed}", partial(run, seed, SECONDS[size])) for seed in SEEDS[size]]
        tracked.append({"costate": name, "errors": rows, "late": [row[-1] for row in rows]})
    figures = {f"lq a={row['a']:g}: {row['costate']}": row["cost"] for row in costs}
    figures |= {f"tracking, last sixth: {row['costate']}": median(row["late"]) for row in tracked}
    return Findings(figures=figures, tables={"lq": costs, "tracking": tracked})


def line(size: int) -> nn.Module:
    """γ(x) = P x + b from zero."""
    return zeroed(nn.Linear(size, size, dtype=torch.float64))


def bend(size: int) -> nn.Module:
    """γ(x) = B tanh(A x + a) + b, from B = b = 0; 16 hidden."""
    inner = nn.Linear(size, 16, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for parameter in inner.parameters():
        drawn = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        parameter.data = drawn / math.sqrt(size)
    return nn.Sequential(inner, nn.Tanh(), zeroed(nn.Linear(16, size, dtype=torch.float64)))


def zeroed(layer: nn.Linear) -> nn.Linear:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def cost(a: float, make: Callable[[int], nn.Module] | None) -> float:
    """½ ∫ x² + u² from x = 1 over 8 s, over the optimum; no network: the sign flip. Euler, 10 ms."""
    costates = None if make is None else CostateNetwork(partial(lq_energy, a), make(1), damping=1e-6)
    state, p, spent = torch.ones(1, dtype=torch.float64), 0.0, 0.0
    for step in range(round(HORIZON / COARSE)):
        x = float(state)
        if costates is None:
            p += COARSE * (x + a * p)  # s = −1
            state = state + COARSE * (a * x - p)
        else:
            p = float(costates.costate(state))
            state = costates.step(state, step * COARSE, COARSE)
        spent += COARSE * (x * x + p * p) / 2
        if not spent < DIVERGED:
            return DIVERGED
    return spent / ((a + math.sqrt(a * a + 1)) / 2)


def lq_energy(a: float, x: Tensor, p: Tensor, time: Tensor) -> Tensor:
    """H of ẋ = a x + u, u = −p."""
    return x @ x / 2 + a * (p @ x) - p @ p / 2


def tracking_energy(point: Tensor, costate: Tensor, time: Tensor) -> Tensor:
    """H of (x, w) and (p_x, p_w): the velocity of the weights is the control, eliminated as ẇ = −p_w/m."""
    x, w = point[:NEURONS], point[NEURONS:].view(NEURONS, NEURONS + 1)
    rate = SPEED * (torch.tanh(w[:, :-1] @ x + w[:, -1]) - x)
    error = x[0] - 0.6 * torch.sin(time / 2)
    return error**2 / 2 + costate[:NEURONS] @ rate - costate[NEURONS:].square().sum() / (2 * MASS)


def start(seed: int) -> tuple[Tensor, Tensor]:
    """States and weights, the bias in the last column."""
    generator = torch.Generator().manual_seed(seed)
    states = 0.1 * torch.randn(NEURONS, generator=generator)
    weights = torch.randn(NEURONS, NEURONS + 1, generator=generator) / math.sqrt(NEURONS + 1)
    return states.double(), weights.double()


def by_costate_network(make: Callable[[int], nn.Module], seed: int, seconds: float) -> list[float]:
    """Errors of every sixth of the run."""
    costates = CostateNetwork(tracking_energy, make(SIZE), damping=1e-3, dissipation=THETA)
    states, weights = start(seed)
    point, outputs = torch.cat([states, weights.flatten()]), []
    for step in range(round(seconds / DT)):
        point = costates.step(point, step * DT, DT)
        outputs.append(float(point[0]))
        if not abs(outputs[-1]) < DIVERGED:
            return [DIVERGED] * WINDOWS
    return sixths(outputs)


def by_sign_flip(seed: int, seconds: float) -> list[float]:
    """The same neurons from the same start, s = −1, Euler's steps."""
    network = streaming.HamiltonianNetwork(
        streaming.Dense(NEURONS, self_loops=True),
        [0],
        model=streaming.NeuronModel(SPEED),
        functional=streaming.Functional(mass=MASS, dissipation=THETA),
        integrator=streaming.ForwardEuler(),
        dtype=torch.float64,
    )
    states, weights = start(seed)
    point = network.point
    point.state[0, :NEURONS], point.weights[:NEURONS] = states, weights
    network.point = point
    outputs = []
    for step in range(round(seconds / DT)):
        network.step(None, torch.full((1, 1), 0.6 * math.sin(step * DT / 2), dtype=torch.float64), DT)
        outputs.append(float(network.output))
    return sixths(outputs)


def sixths(outputs: list[float]) -> list[float]:
    """Root mean square errors."""
    squares = [(output - 0.6 * math.sin((step + 1) * DT / 2)) ** 2 for step, output in enumerate(outputs)]
    part = len(squares) // WINDOWS
    return [math.sqrt(sum(squares[k * part : (k + 1) * part]) / part) for k in range(WINDOWS)]


LQ: dict[str, Callable[[int], nn.Module] | None] = {"sign flip": None, "linear": line, "16 tanh": bend}
TRACKERS: dict[str, Callable[[int, float], list[float]]] = {
    "sign flip": by_sign_flip,
    "linear": partial(by_costate_network, line),
    "16 tanh": partial(by_costate_network, bend),
}


def draw(record: Record, path: Path) -> None:
    """Costs by plant, and errors over time with every seed."""
    figure = Figure(figsize=(9, 3.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    costs, errors = figure.subplots(1, 2)
    for number, name in enumerate(LQ):
        rows = [row for row in record.tables["lq"] if row["costate"] == name]
        places = [PLANTS.index(row["a"]) + 0.27 * (number - 1) for row in rows]
        costs.bar(places, [row["cost"] for row in rows], 0.25, label=name)
    costs.set(yscale="log", ylim=(0.9, None), title="cost over the optimum, ẋ = a x + u")
    costs.set_xticks(range(len(PLANTS)), [f"a = {a:g}" for a in PLANTS])
    costs.axhline(1.0, color="k", lw=0.8)
    for number, row in enumerate(record.tables["tracking"]):
        for seed, curve in enumerate(row["errors"]):
            label = row["costate"] if seed == 0 else None
            errors.semilogy(range(1, WINDOWS + 1), curve, **{**CURVES[number], "ms": 3, "lw": 1}, label=label)
    errors.set(title="tracking 0.6 sin(t/2), two neurons", xlabel="sixth of the run", ylabel="root mean square error")
    plain_log(errors)
    for axes in (costs, errors):
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

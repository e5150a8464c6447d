"""Local propagation becomes backpropagation as the speed c grows, and misses it by the lag of a signal at finite c."""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet import streaming

WIDTHS = [4, 16, 16, 3]
STREAMS = 8
THETA = 20.0
SPEEDS = [2.0, 6.0, 20.0, 60.0, 200.0, 600.0, 2000.0]
RATIOS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0]
FREQUENCIES = [0.5, 5.0, 50.0]


def measure(size: Size, cells: Cells) -> Findings:
    """Cosine and relative error of all efforts together, against autograd on the same layers."""
    seeds = range(2 if size is Size.SMALL else 5)
    rest = [
        cells.get(f"rest c={speed:g} seed={seed}", partial(compared, speed, THETA, 0.0, seed))
        for speed in SPEEDS
        for seed in seeds
    ]
    moving = [
        cells.get(f"moving w={omega:g} c/w={ratio:g} seed={seed}", partial(compared, ratio * omega, 0.0, omega, seed))
        for omega in FREQUENCIES
        for ratio in RATIOS
        for seed in seeds
    ]
    rest_rows, moving_rows = averaged(rest, len(seeds)), averaged(moving, len(seeds))
    late = [row for row in moving_rows if row["ratio"] >= 30]
    spreads = [max(same) / min(same) for same in by_ratio(moving_rows)]
    figures = {
        "rest_one_minus_cosine_at_c_2000": rest_rows[-1]["one_minus_cosine"],
        "rest_error_slope": slope([row["speed"] for row in rest_rows[3:]], [row["error"] for row in rest_rows[3:]]),
        "rest_misfit_after_discount": max(row["discounted_error"] for row in rest_rows),
        "moving_error_slope": slope([row["ratio"] for row in late], [row["error"] for row in late]),
        "moving_cosine_slope": slope([row["ratio"] for row in late], [row["one_minus_cosine"] for row in late]),
        "moving_cosine_at_c_10_omega": fmean(row["cosine"] for row in moving_rows if row["ratio"] == 10),
        "moving_largest_spread_between_frequencies": max(spreads),
    }
    return Findings(figures=figures, tables={"rest": rest_rows, "moving": moving_rows})


def compared(speed: float, theta: float, omega: float, seed: int) -> dict[str, float]:
    """Efforts of a layered network that hears signals of frequency ω, against autograd's gradients at that instant."""
    graph = streaming.layered(WIDTHS)
    network = streaming.HamiltonianNetwork(
        graph,
        range(graph.neurons - WIDTHS[-1], graph.neurons),
        range(WIDTHS[0]),
        model=streaming.NeuronModel(speed),
        functional=streaming.Functional(mass=math.inf, dissipation=theta),
        streams=streaming.Streams(STREAMS),
        start=streaming.Start(generator=torch.Generator().manual_seed(seed)),
        dtype=torch.float64,
    )
    generator = torch.Generator().manual_seed(100 + seed)
    ends = (WIDTHS[0], WIDTHS[-1])
    phases = [2 * math.pi * torch.rand(STREAMS, width, dtype=torch.float64, generator=generator) for width in ends]
    dt = 0.1 / speed
    steps = 400  # forty times 1/c: many times the way through three layers and back
    for step in range(steps):
        now = omega * (step - steps + 1) * dt
        heard, wanted = (phase + now for phase in phases)
        network.step(heard.sin(), wanted.sin(), dt)
    exact, found = gradients(network, phases[0].sin(), phases[1].sin()), blocks(network)
    discounts = [(speed / (speed + theta)) ** (len(WIDTHS) - 1 - layer) for layer in range(len(WIDTHS) - 1)]
    mine, theirs = torch.cat([block.flatten() for block in found]), torch.cat([block.flatten() for block in exact])
    scaled = torch.cat([d * block.flatten() for d, block in zip(discounts, exact, strict=True)])
    unit, other = mine / mine.norm(), theirs / theirs.norm()
    return {
        "speed": speed,
        "ratio": speed / omega if omega else 0.0,
        "omega": omega,
        "cosine": float(unit @ other),
        "one_minus_cosine": float((unit - other).square().sum() / 2),
        "error": float((mine - theirs).norm() / theirs.norm()),
        "discounted_error": float((mine - scaled).norm() / scaled.norm()),
    }


def matrix(network: streaming.HamiltonianNetwork, values: Tensor) -> Tensor:
    """One number per edge as a matrix from source to target."""
    graph = network.graph
    full = torch.zeros(graph.neurons, graph.neurons, dtype=values.dtype)
    full[graph.targets, graph.sources] = values
    return full


def blocks(network: streaming.HamiltonianNetwork) -> list[Tensor]:
    """The efforts of each layer, its biases in the last column."""
    return layers(matrix(network, network.effort))


def layers(full: Tensor) -> list[Tensor]:
    """The rows of a layer against the layer below and the source."""
    ends = torch.tensor([0, *WIDTHS]).cumsum(0).tolist()
    spans = [slice(*pair) for pair in pairwise(ends)]
    return [torch.cat([full[above, below], full[above, -1:]], 1) for below, above in pairwise(spans)]


def gradients(network: streaming.HamiltonianNetwork, x: Tensor, target: Tensor) -> list[Tensor]:
    """The same by autograd, through torch's own layers."""
    modules: list[nn.Module] = []
    for block in layers(matrix(network, network.point.weights)):
        linear = nn.Linear(block.shape[1] - 1, block.shape[0], dtype=torch.float64)
        linear.weight.data, linear.bias.data = block[:, :-1].clone(), block[:, -1].clone()
        modules += [linear, nn.Tanh()]
    module = nn.Sequential(*modules)
    loss = (module(x) - target).square().sum() / 2
    found = torch.autograd.grad(loss, list(module.parameters()))
    return [torch.cat([weight, bias[:, None]], 1) for weight, bias in zip(found[::2], found[1::2], strict=True)]


def averaged(rows: list[dict[str, float]], seeds: int) -> list[dict[str, float]]:
    """Means over the seeds, which stand together."""
    groups = [rows[k : k + seeds] for k in range(0, len(rows), seeds)]
    return [{name: sum(row[name] for row in group) / seeds for name in group[0]} for group in groups]


def slope(x: list[float], y: list[float]) -> float:
    """Of log y against log x, by least squares."""
    points = torch.tensor([[math.log(a), 1.0] for a in x], dtype=torch.float64)
    values = torch.tensor([[math.log(b)] for b in y], dtype=torch.float64)
    return float(torch.linalg.lstsq(points, values).solution[0])


def by_ratio(rows: list[dict[str, float]]) -> list[list[float]]:
    """Errors at the same c/ω, one per frequency."""
    return [[row["error"] for row in rows if row["ratio"] == ratio] for ratio in RATIOS]


def draw(record: Record, path: Path) -> None:
    """Errors against speed at rest, and against c/ω in motion."""
    figure = Figure(figsize=(9, 3.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    rest = record.tables["rest"]
    speeds = [row["speed"] for row in rest]
    left.loglog(speeds, [row["error"] for row in rest], "o-", label="relative error")
    left.loglog(speeds, [row["one_minus_cosine"] for row in rest], "s-", label="1 − cosine")
    left.loglog(speeds, [THETA / c for c in speeds], color="0.6", ls="--", label="θ/c")
    left.set(title=f"resting signal, θ = {THETA:g}/s", xlabel="speed c (1/s)")
    left.set(ylabel="distance from backprop's gradient")
    for marker, omega in zip("o^x", FREQUENCIES, strict=True):
        own = [row for row in record.tables["moving"] if row["omega"] == omega]
        ratios = [row["ratio"] for row in own]
        error, angle = ([row[name] for row in own] for name in ("error", "one_minus_cosine"))
        right.loglog(ratios, error, f"{marker}-", color="C0", label=f"relative error, ω = {omega:g}/s")
        right.loglog(ratios, angle, f"{marker}-", color="C1", label="1 − cosine" if omega == 5 else None)
    right.loglog(RATIOS, [3 / ratio for ratio in RATIOS], color="0.6", ls="--", label="3 ω/c")
    right.set(title="moving signal, θ = 0", xlabel="c/ω: speed × time scale of the signal")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

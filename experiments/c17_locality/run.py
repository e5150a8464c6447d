"""Every update reads a neuron's own, its parents' and its children's values of this instant: by perturbing the rest."""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet import streaming
from worldsheet.streaming import HamiltonianNetwork, NeuronModel, PhasePoint

KINDS = ["dense", "layered", "small world", "random"]
NEURONS = 20


def measure(size: Size, cells: Cells) -> Findings:
    """Whose values reach whose update, on random graphs of every kind, and how far a disturbance gets in k steps."""
    seeds = range(3 if size is Size.SMALL else 20)
    rows = [cells.get(f"{kind} {seed}", partial(reads, kind, seed)) for kind in KINDS for seed in seeds]
    cones = cells.get("cone", cone)
    figures = {
        "foreign_reads": float(sum(row["foreign"] for row in rows)),
        "share_of_allowed_reads": fmean(row["seen"] / row["allowed"] for row in rows),
        "cone_beyond_one_edge_per_step": float(max(row["reached"] - row["step"] for row in cones)),
    }
    return Findings(figures=figures, tables={"reads": rows, "cone": cones})


def graph(kind: str, generator: torch.Generator) -> streaming.Connectivity:
    """A graph of a kind."""
    if kind == "dense":
        return streaming.Dense(NEURONS)
    if kind == "layered":
        return streaming.layered([5, 5, 5, 5])
    if kind == "small world":
        return streaming.small_world(NEURONS, 4, 0.2, generator)
    return streaming.random(NEURONS, 3, generator)


def network(kind: str, seed: int) -> HamiltonianNetwork:
    """A network at a point of phase space with nothing special about it."""
    generator = torch.Generator().manual_seed(seed)
    place = graph(kind, generator)
    built = HamiltonianNetwork(place, [NEURONS - 1], model=NeuronModel(3.0, bias=False), dtype=torch.float64)
    fields = [torch.randn(field.shape, dtype=torch.float64, generator=generator) for field in built.point]
    present = place.on_edges(torch.ones(place.edges, dtype=torch.float64))
    built.point = PhasePoint(*fields[:2], *(field * present for field in fields[2:]))
    return built


def stepped(kind: str, seed: int, changed: int | None, steps: int = 1) -> list[Tensor]:
    """Per neuron, what it holds after some steps: state, costate, and the weights and momenta of its incoming edges."""
    net = network(kind, seed)
    if changed is not None:
        bump = torch.zeros(NEURONS, dtype=torch.float64)
        bump[changed] = 0.7
        # the drive of a neuron is its own value: its parents' states and its weights reach others through it alone
        net.point = net.point._replace(state=net.point.state + bump, costate=net.point.costate + bump)
    for _ in range(steps):
        net.step(None, torch.zeros(1, 1, dtype=torch.float64), 0.05)
    point, place = net.point, net.graph
    found = []
    for neuron in range(NEURONS):
        own = place.on_edges((place.targets == neuron).double()) != 0
        parts = (point.state[:, neuron], point.costate[:, neuron], point.weights[own], point.momentum[own])
        found.append(torch.cat([part.flatten() for part in parts]))
    return found


def reads(kind: str, seed: int) -> dict[str, Any]:
    """Change the state and costate of one neuron after the other, and see whose update differs by a bit.

    Neuron i may differ if the changed one is i, a parent or a child of i, or another parent of a child of i: the last
    through the child's drive, which is a value of the child.
    """
    place = graph(kind, torch.Generator().manual_seed(seed))
    before = stepped(kind, seed, None)
    foreign = seen = allowed = 0
    for changed in range(NEURONS):
        after = stepped(kind, seed, changed)
        near = {changed, *place.parents(changed), *place.children(changed)}
        near |= {parent for child in place.children(changed) for parent in place.parents(child)}
        differs = {i for i in range(NEURONS) if not torch.equal(before[i], after[i])}
        foreign += len(differs - near)
        seen, allowed = seen + len(differs & near), allowed + len(near)
    return {"kind": kind, "seed": seed, "foreign": foreign, "seen": seen, "allowed": allowed}


def cone() -> list[dict[str, int]]:
    """A ring on which each neuron listens to its predecessor: how far the state's disturbance has got after k steps."""
    ring = streaming.Sparse(NEURONS, torch.arange(NEURONS), (torch.arange(NEURONS) + 1) % NEURONS)
    rows = []
    for steps in range(1, 9):
        ends = []
        for bump in (0.0, 0.7):
            built = HamiltonianNetwork(ring, [0], model=NeuronModel(3.0, bias=False), dtype=torch.float64)
            state = built.point.state.clone()
            state[0, 5] += bump
            built.point = built.point._replace(state=state)
            for _ in range(steps):
                built.step(None, None, 0.05)
            ends.append(built.point.state[0])
        reached = (ends[0] != ends[1]).nonzero().flatten() - 5
        rows.append({"step": steps, "reached": int(reached.max())})
    return rows


def draw(record: Record, path: Path) -> None:
    """The light cone of a ring."""
    figure = Figure(figsize=(5, 3.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rows = record.tables["cone"]
    axes.plot([row["step"] for row in rows], [row["reached"] for row in rows], "o", label="furthest state that differs")
    axes.plot([0, 8], [0, 8], color="0.6", ls="--", label="one edge per step")
    axes.set(title="a disturbance on a ring", xlabel="steps", ylabel="edges away")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

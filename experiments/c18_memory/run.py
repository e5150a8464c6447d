"""Learning in real time needs memory that is constant in time: the process is watched over a million steps."""

import math
import resource
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet import streaming
from worldsheet_lab.plots import plain_log

DT = 0.004


def measure(size: Size, cells: Cells) -> Findings:
    """Memory of the process at ten moments, and whether the network still tracks."""
    steps = {Size.SMALL: 20_000, Size.FULL: 1_000_000}[size]
    kept = cells.get(f"{steps} steps", partial(watched, steps))
    growth = (kept["bytes"][-1] - kept["bytes"][0]) / (steps * 0.9)
    figures = {"steps": float(steps), "bytes_per_step": growth, "error_at_the_end": kept["errors"][-1]}
    return Findings(figures=figures, tables={"memory": [kept]})


def watched(steps: int) -> dict[str, Any]:
    """Five neurons track 0.6 sin(t/2); resident bytes and errors of every tenth of the run."""
    network = streaming.HamiltonianNetwork(
        streaming.Dense(5),
        [0],
        functional=streaming.Functional(mass=0.001, dissipation=100.0),
    )
    sizes, errors, part = [], [], steps // 10
    for tenth in range(10):
        squares = 0.0
        for step in range(part):
            wanted = torch.full((1, 1), 0.6 * math.sin((tenth * part + step + 1) * DT / 2))
            squares += float((network.step(None, wanted, DT).output - wanted).square())
        sizes.append(resident())
        errors.append(math.sqrt(squares / part))
    return {"bytes": sizes, "errors": errors}


def resident() -> int:
    """Bytes of this process that are in memory; the largest so far where the system does not tell."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw(record: Record, path: Path) -> None:
    """Memory and error over time."""
    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    (row,) = record.tables["memory"]
    tenths = [record.figures["steps"] / 10 * k for k in range(1, 11)]
    left.plot(tenths, [size / 2**20 for size in row["bytes"]], "o-")
    left.set(xlabel="steps", ylabel="memory of the process (MiB)", ylim=(0, None))
    right.semilogy(tenths, row["errors"], "o-")
    right.set(xlabel="steps", ylabel="root mean square error")
    plain_log(right)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:,.0f}k" if steps >= 1000 else f"{steps:g}")
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

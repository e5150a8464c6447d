"""Relaxation in time against the sequential loop: which way is fastest where, and updates of a task in less time."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.recurrent import CHOSEN, MODULE, Case, cases, measured
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet.nn import Method, Recurrent

HEAD = (Case("tanh", 10_000, 16, 1), Case("gru", 10_000, 16, 1), Case("gru", 10_000, 32, 1))
SMALL = (*cases((100, 1000), (8, 64), (1,)), *HEAD)
FULL = (
    *HEAD,
    *cases((100, 1000), (8, 32, 64, 128), (1, 8, 64)),
    *cases((10_000,), (8, 32, 64, 128), (1, 8)),
    *cases((100_000,), (8,), (1,)),
)
ROUNDS = 2
STEPS, PERIODS, NOISE = 4096, (4.0, 8.0, 16.0, 32.0), 0.3
COURSE, LEARNED = 200, {Size.SMALL: 6, Size.FULL: 200}


def measure(size: Size, cells: Cells) -> Findings:
    """Times and errors of all ways on a grid, and some updates of a task by torch's module and by `Recurrent`."""
    updates = LEARNED[size]
    learned = {
        name: cells.get(f"tones by {name}, {updates} updates", partial(learn, name, updates))
        for name in (CHOSEN, MODULE)
    }
    chosen = dict.fromkeys(SMALL if size is Size.SMALL else FULL)
    rows = [cells.get(str(case), partial(measured, case, ROUNDS, cells.device, 0)) for case in chosen]
    return Findings(figures(rows, learned), {"grid": rows, "tones": [learned[MODULE], learned[CHOSEN]]})


def figures(rows: list[dict[str, Any]], learned: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The numbers that the claim is judged by."""
    by_case = {row["case"]: row for row in rows}
    found = {f"{case}, times faster": 1 / by_case[str(case)]["ratio"][CHOSEN]["median"] for case in HEAD}
    scan = by_case[str(HEAD[1])]["ratio"][Method.SCAN.value]["median"]
    long = [row for row in rows if row["steps"] >= 1000]
    slower = [row["ratio"][CHOSEN]["median"] for row in long]
    return {
        **found,
        f"{HEAD[1]}, scan alone, times faster": 1 / scan,
        "largest error float32": max(row["error"][CHOSEN] for row in rows),
        "largest error of a scan float32": max(row["error"].get(Method.SCAN.value, 0.0) for row in rows),
        "largest time over torch's module from 1000 steps on": max(slower),
        "tones, times faster": learned[MODULE]["seconds"] / learned[CHOSEN]["seconds"],
        "tones, accuracy": learned[CHOSEN]["accuracy"],
        "tones, accuracy of torch's module": learned[MODULE]["accuracy"],
        "tones, largest difference of losses": max(
            abs(one - other) for one, other in zip(learned[MODULE]["losses"], learned[CHOSEN]["losses"], strict=True)
        ),
    }


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Swelling tones of four pitches in noise, (T, B, 1), and which pitch it is."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, len(PERIODS), (count,), generator=generator)
    phase, swell = (6.2832 * torch.rand(2, count, generator=generator)).unbind()
    now = torch.arange(STEPS)[:, None]
    tone = torch.sin(6.2832 * now / torch.tensor(PERIODS)[label] + phase)
    loud = 0.5 + 0.5 * torch.sin(6.2832 * now * 3 / STEPS + swell)
    return (tone * loud + NOISE * torch.randn(STEPS, count, generator=generator))[..., None], label


def learn(name: str, updates: int) -> dict[str, Any]:
    """Train a GRU of 16 and a readout of its mean output; processor seconds, losses, accuracy on 256 new tones."""
    torch.manual_seed(0)
    gru, head = nn.GRU(1, 16), nn.Linear(16, len(PERIODS))
    layer: nn.Module = Recurrent(gru) if name == CHOSEN else gru
    trained = [*gru.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=COURSE)
    losses, begun = [], time.process_time()
    for update in range(updates):
        x, label = tones(32, update)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(layer(x)[0].mean(0)), label)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        course.step()
        losses.append(float(loss.detach()))
    seconds = time.process_time() - begun
    x, label = tones(256, 10**6)
    with torch.no_grad():
        right = (head(Recurrent(gru)(x)[0].mean(0)).argmax(1) == label).double().mean()
    return {"name": name, "seconds": seconds, "losses": losses, "accuracy": float(right)}


def draw(record: Record, path: Path) -> None:
    """How many times faster than torch's module, over steps, at batch 1; and the task's loss over time."""
    figure = Figure(figsize=(11, 3.9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    for axes, layer in zip(panels[:3], ("tanh", "gru", "lstm"), strict=True):
        rows = [row for row in record.tables["grid"] if row["layer"] == layer and row["batch"] == 1]
        for mark, way in zip("osd", (CHOSEN, Method.SCAN.value, Method.DIAGONAL.value), strict=True):
            for shade, size in enumerate((8, 64)):
                points = sorted((row["steps"], 1 / row["ratio"][way]["median"]) for row in rows
                                if row["size"] == size and way in row["ratio"])  # fmt: skip
                line = ("-", "--")[shade]
                axes.plot(*zip(*points, strict=True), mark + line, label=f"{way}, n = {size}") if points else None
        axes.axhline(1, color="grey", lw=0.8)
        axes.set(xscale="log", yscale="log", xlabel="steps", title=layer)
    panels[0].set_ylabel("times faster than torch's module")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=6, frameon=False, fontsize=8)
    for row in record.tables["tones"]:
        times = [row["seconds"] * (k + 1) / len(row["losses"]) for k in range(len(row["losses"]))]
        panels[3].plot(times, row["losses"])
        start = times[0], row["losses"][0]
        panels[3].annotate(row["name"], start, (0, -12), textcoords="offset points", ha="center", fontsize=8)
    panels[3].set(xscale="log", xlabel="seconds", ylabel="loss", title="tones of 4096 steps")
    panels[3].margins(x=0.2, y=0.15)
    figure.savefig(path)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

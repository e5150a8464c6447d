"""C5: time, memory, flops and evaluations of one gradient by local waves, beside autograd's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import worldsheet as ws
from benchmarks.architectures import GPT, ResNet
from benchmarks.memory import peak_bytes
from benchmarks.models import tanh_mlp, vgg9
from benchmarks.timing import Stopwatch, in_turns, paired_ratios
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet.diagnostics.autograd import autograd_backward


class Model(NamedTuple):
    """A network with data of a batch size."""

    make: Callable[[], nn.Module]
    x: Callable[[int], Tensor]
    loss: Callable[[Any, Any], Tensor]
    target: Callable[[int], Tensor]


def next_token(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over positions."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def images(batch: int) -> Tensor:
    """Standard normal."""
    return torch.randn(batch, 3, 32, 32)


def labels(batch: int) -> Tensor:
    """Ten classes."""
    return torch.randint(10, (batch,))


def tokens(batch: int) -> Tensor:
    """Sequences of 64."""
    return torch.randint(65, (batch, 64))


MODELS = {
    "MLP 128 x 30": Model(
        lambda: tanh_mlp(128, 128, 30), lambda batch: torch.randn(batch, 1, 1, 128), nn.CrossEntropyLoss(), labels
    ),
    "VGG-9": Model(vgg9, images, nn.CrossEntropyLoss(), labels),
    "ResNet-18": Model(ResNet, images, nn.CrossEntropyLoss(), labels),
    "GPT-small": Model(GPT, tokens, next_token, tokens),
}
BATCHES = {Size.SMALL: (1, 8), Size.FULL: (1, 8, 32, 64, 128, 256)}
ROUNDS = {Size.SMALL: 3, Size.FULL: 9}
LARGE = 32  # from this batch on three rounds are enough: a gradient takes seconds
METHODS: dict[str, Callable[[ws.Chain, Tensor, Tensor], Tensor]] = {
    "autograd": autograd_backward,
    "wavefront": ws.backward,
    "recompute": partial(ws.backward, recompute=True),
}


def clear(chain: ws.Chain) -> None:
    """No gradients, as before each step."""
    for parameter in chain.parameters():
        parameter.grad = None


class Counter(TorchDispatchMode):
    """Flops of products and convolutions; torch's own counter watches modules with hooks that see one backward only."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, then do."""
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += int(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out))
        return out


def flops(step: Callable[[], object]) -> int:
    """Forward and back."""
    with Counter() as counter:
        step()
    return counter.total


def cell(model: Model, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """All methods in turns; ratios within each round."""
    torch.manual_seed(0)
    chain = ws.Chain(model.make().to(device), model.loss)
    x, target = model.x(batch).to(device), model.target(batch).to(device)
    steps = {name: partial(method, chain, x, target) for name, method in METHODS.items()}
    found: dict[str, Any] = {"sites": len(chain.sites(x))}
    prepare = partial(clear, chain)
    wait = partial(torch.get_device_module(device).synchronize, device)
    in_turns(steps, 1, Stopwatch(prepare=prepare, wait=wait))
    taken = in_turns(steps, rounds, Stopwatch(prepare=prepare, wait=wait))
    peaks, work = {}, {}
    for name, step in steps.items():
        clear(chain)
        peaks[name] = peak_bytes(step, device)
        clear(chain)
        work[name] = flops(step)
    for name in METHODS:
        found[name] = {
            "seconds": sorted(taken[name])[rounds // 2],
            "time": paired_ratios(taken[name], taken["autograd"]).median,
            "memory": peaks[name] / peaks["autograd"],
            "bytes": peaks[name],
            "flops": work[name] / work["autograd"],
        }
    sol = ws.relax(chain, x[:2], target[:2])
    found["evaluations per site"] = sol.evaluations / len(sol.states)
    found["pull-backs per site"] = sol.pulls / len(sol.states)
    return found


def rounds(size: Size, batch: int) -> int:
    """How many times each method is timed."""
    return ROUNDS[size] if batch < LARGE else min(3, ROUNDS[size])


def measure(size: Size, cells: Cells) -> Findings:
    """One row per network and batch size."""
    rows = []
    for name, model in MODELS.items():
        for batch in BATCHES[size]:
            key = f"{name} batch {batch}"
            found = cells.get(key, lambda m=model, b=batch: cell(m, b, rounds(size, b), cells.device))
            rows.append({"network": name, "batch": batch, **found})
    large = max(BATCHES[size])
    figures: dict[str, float] = {}
    for row in rows:
        if row["batch"] == large:
            for method in ("wavefront", "recompute"):
                for what in ("time", "memory", "flops"):
                    figures[f"{what} {method} {row['network']}"] = row[method][what]
    figures["most evaluations per site"] = max(row["evaluations per site"] for row in rows)
    figures["most pull-backs per site"] = max(row["pull-backs per site"] for row in rows)
    return Findings(figures, {"gradients": rows})


def draw(record: Record, path: Path) -> None:
    """Ratios to autograd by batch size."""
    rows = record.tables["gradients"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for axes, what in zip(panels, ("time", "memory"), strict=True):
        for colour, name in enumerate(MODELS):
            own = [row for row in rows if row["network"] == name]
            for method, style in (("wavefront", "o-"), ("recompute", "s--")):
                ratios = [row[method][what] for row in own]
                label = f"{name}, {method}"
                axes.plot(
                    [row["batch"] for row in own], ratios, style, color=f"C{colour}", fillstyle="none", label=label
                )
        axes.axhline(1, color="grey", lw=0.8)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="batch", ylabel=f"{what} over autograd's", ylim=(0, None))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

"""C6: exactness survives skip connections, dense joins, attention, recurrence and tied weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from benchmarks.architectures import GPT, DenseBlock, Mixed, Recurrent, ResNet, UNet
from experiments.harness import Cells, Findings, Record, Size, experiment


class Model(NamedTuple):
    """A network with data."""

    make: Callable[[], nn.Module]
    x: Callable[[], Tensor]
    loss: Callable[[Any, Any], Tensor]
    target: Callable[[], Tensor]


def next_token(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over positions."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def models(size: Size) -> dict[str, Model]:
    """Small networks, and beside them ResNet-18 and a GPT of their true size."""
    entropy = nn.CrossEntropyLoss()
    found = {
        "conv + linear, batch norm, dropout": Model(
            Mixed, lambda: torch.randn(8, 2, 8, 8), entropy, lambda: torch.randint(4, (8,))
        ),
        "dense block": Model(DenseBlock, lambda: torch.randn(4, 4, 8, 8), entropy, lambda: torch.randint(5, (4,))),
        "U-Net": Model(UNet, lambda: torch.randn(2, 2, 16, 16), nn.MSELoss(), lambda: torch.randn(2, 2, 16, 16)),
        "LSTM, 12 steps": Model(
            lambda: Recurrent(nn.LSTMCell), lambda: torch.randn(4, 12, 3), entropy, lambda: torch.randint(4, (4,))
        ),
        "GRU, 12 steps": Model(
            lambda: Recurrent(nn.GRUCell), lambda: torch.randn(4, 12, 3), entropy, lambda: torch.randint(4, (4,))
        ),
    }
    narrow, context, depth = (8, 16, 2) if size is Size.SMALL else (64, 64, 4)
    found[f"ResNet-18, width {narrow}"] = Model(
        lambda: ResNet(10, narrow), lambda: torch.randn(4, 3, 32, 32), entropy, lambda: torch.randint(10, (4,))
    )
    found[f"GPT, {depth} blocks, tied embedding"] = Model(
        lambda: GPT(65, context, 8 * narrow, depth, 4, dropout=0.1),
        lambda: torch.randint(65, (2, context)),
        next_token,
        lambda: torch.randint(65, (2, context)),
    )
    return found


def every_submodule(module: nn.Module) -> bool:
    """The finest choice of sites."""
    return True


def cell(model: Model, dtype: torch.dtype, training: bool, every: bool) -> dict[str, float]:
    """Sites, longest path, ticks and the worst parameter's error against autograd."""
    torch.manual_seed(0)
    module = model.make().to(dtype).train(training)
    x, target = (t.to(dtype) if t.is_floating_point() else t for t in (model.x(), model.target()))
    chain = ws.Chain(module, model.loss, blocks=every_submodule if every else None)
    sol = ws.relax(chain, x, target)
    comparison = ws.compare(chain, x, target, sol)
    return {
        "sites": len(sol.states),
        "longest path": chain.sites(x).topology.depth,
        "ticks": sol.ticks,
        "relative error": comparison.relative_error,
        "1 - cosine": 1 - comparison.cosine,
    }


def measure(size: Size, cells: Cells) -> Findings:
    """One row per network, precision, mode and granularity."""
    rows = []
    for name, model in models(size).items():
        for dtype in (torch.float32, torch.float64):
            for training in (True, False):
                for every in (False, True):
                    key = (
                        f"{name}, {str(dtype)[6:]}, {'train' if training else 'eval'}, {'all' if every else 'default'}"
                    )
                    found = cells.get(key, lambda m=model, d=dtype, t=training, e=every: cell(m, d, t, e))
                    rows.append(
                        {"network": name, "dtype": str(dtype)[6:], "training": training, "every": every, **found}
                    )

    def worst(dtype: str) -> float:
        return max(row["relative error"] for row in rows if row["dtype"] == dtype)

    return Findings(
        {
            "worst_error_float32": worst("float32"),
            "worst_error_float64": worst("float64"),
            "rows_with_other_than_twice_the_longest_path": sum(r["ticks"] != 2 * r["longest path"] for r in rows),
        },
        {"networks": rows},
    )


def draw(record: Record, path: Path) -> None:
    """Worst error by network and precision, the coarse and the fine cut side by side."""
    rows = record.tables["networks"]
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for dtype, colour in (("float32", "tab:orange"), ("float64", "tab:blue")):
        for every, marker in ((False, "o"), (True, "s")):
            kind = [row for row in rows if (row["dtype"], row["every"]) == (dtype, every)]
            worst = [max(max(row["relative error"], 1e-17) for row in kind if row["network"] == n) for n in names]
            label = f"{dtype}, {'every submodule a site' if every else 'sites by default'}"
            filled = "none" if every else "full"
            axes.semilogx(worst, range(len(names)), marker, color=colour, label=label, fillstyle=filled)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="largest relative error of a parameter's gradient (1e-17 stands for none)", xlim=(5e-18, 1e-3))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

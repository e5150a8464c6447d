"""C3: a CNN trained by dyadic relaxation is the CNN trained by backprop, and its gradients agree all the way."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import worldsheet as ws
from benchmarks.architectures import ResNet
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.augmentation import shifted
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.networks import Blueprint, cnn
from worldsheet_lab.plots import whole_numbers


class Scale(NamedTuple):
    """How much is trained."""

    images: int | None
    tests: int | None
    epochs: int
    batch: int
    width: int
    seeds: tuple[int, ...]
    networks: tuple[str, ...]
    watched: int
    rate: float


SCALES = {
    Size.SMALL: Scale(1024, 500, 4, 32, 8, (0,), ("VGG-9",), 6, 0.05),
    Size.FULL: Scale(None, None, 200, 128, 64, (0, 1, 2), ("VGG-9", "ResNet-18"), 200, 0.2),
}
DECAY, MOMENTUM = 5e-4, 0.9


def network(name: str, width: int) -> nn.Module:
    """The nine-layer VGG, 64 64 M 128 128 M 256 256 M 256 256 M and a linear layer at full width; or ResNet-18."""
    return cnn(Blueprint((3, 32, 32), 10, 9, width, "relu", 0.0)) if name == "VGG-9" else ResNet(10, width)


def fidelity(chain: ws.Chain, x: Tensor, target: Tensor) -> dict[str, float]:
    """The worst parameter of a literal relaxation, all sites at every tick, against autograd; nothing is changed."""
    module = chain.module
    assert isinstance(module, nn.Module)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    sol = ws.relax(chain, x, target, schedule=ws.Synchronous())
    rows = ws.compare(chain, x, target, sol).rows
    for name, buffer in module.named_buffers():
        buffer.copy_(before[name])
    layers = [row for row in rows if "conv" in row.name or "linear" in row.name or "head" in row.name]
    return {
        "1 - cosine": max(1 - row.cosine for row in layers),
        "relative error": max(row.relative_error for row in layers),
        "snr": min(1e300, *(row.snr for row in layers)),  # equal to the last bit: no noise at all
    }


def trained(name: str, method: str, seed: int, scale: Scale, data: DataSet, device: torch.device) -> dict[str, Any]:
    """Losses by epoch, test accuracy, and what was watched on the way."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    module = network(name, scale.width).to(device)
    chain = ws.Chain(module, nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(module.parameters(), scale.rate, MOMENTUM, weight_decay=DECAY, nesterov=True)
    images, labels = data.train_images.to(device), data.train_labels.to(device)
    steps = scale.epochs * (len(images) // scale.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, scale.rate, total_steps=steps)
    losses, watched, step = [], [], 0
    for _ in range(scale.epochs):
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(images), generator=generator).split(scale.batch):
            if len(index) < scale.batch:
                continue
            x, target = shifted(images[index], generator), labels[index]
            if method == "dyadic" and step % max(1, steps // scale.watched) == 0:
                watched.append({"step": step, **fidelity(chain, x, target)})
            optimizer.zero_grad()
            if method == "dyadic":
                loss = ws.backward(chain, x, target)
            else:
                loss = nn.functional.cross_entropy(module(x), target)
                loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
            step += 1
        losses.append(float(total) / (len(images) // scale.batch))
    return {"losses": losses, "accuracy": accuracy(module, data, device), "watched": watched}


@torch.no_grad()
def accuracy(module: nn.Module, data: DataSet, device: torch.device) -> float:
    """Percent of test images."""
    module.eval()
    hits = 0
    for images, labels in zip(data.test_images.split(500), data.test_labels.split(500), strict=True):
        hits += int((module(images.to(device)).argmax(1).cpu() == labels).sum())
    return 100 * hits / len(data.test_labels)


def measure(size: Size, cells: Cells) -> Findings:
    """Both methods from the same seeds."""
    scale = SCALES[size]
    data = load("cifar10").subset(scale.images, scale.tests)
    runs = []
    for name in scale.networks:
        for seed in scale.seeds:
            for method in ("dyadic", "backprop"):
                key = f"{name} {method} seed={seed}"
                found = cells.get(key, lambda n=name, m=method, s=seed: trained(n, m, s, scale, data, cells.device))
                runs.append({"network": name, "method": method, "seed": seed, **found})
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    watched = [row for run in runs for row in run["watched"]]
    figures = {
        "largest_loss_difference": max(
            abs(a - b) / b for one, other in pairs for a, b in zip(one["losses"], other["losses"], strict=True)
        ),
        "largest_accuracy_difference": max(abs(one["accuracy"] - other["accuracy"]) for one, other in pairs),
        "largest_1_minus_cosine": max(row["1 - cosine"] for row in watched),
        "largest_relative_error": max(row["relative error"] for row in watched),
        "smallest_snr": min(row["snr"] for row in watched),
    }
    for name in scale.networks:
        for method in ("dyadic", "backprop"):
            found = [run["accuracy"] for run in runs if (run["network"], run["method"]) == (name, method)]
            figures[f"accuracy {name} {method}"] = sum(found) / len(found)
    return Findings(figures, {"runs": runs})


def draw(record: Record, path: Path) -> None:
    """Losses of both methods, and the gradient's error during training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for run in record.tables["runs"]:
        style = "-" if run["method"] == "backprop" else "o"
        epochs = range(1, len(run["losses"]) + 1)
        left.plot(epochs, run["losses"], style, fillstyle="none", label=f"{run['network']}, {run['method']}")
        if run["watched"]:
            steps = [row["step"] for row in run["watched"]]
            for name, mark in (("relative error", "o-"), ("1 - cosine", "x--")):
                right.semilogy(steps, [max(row[name], 1e-16) for row in run["watched"]], mark, label=name)
    left.set(xlabel="epoch", ylabel="training loss (nats per image)")
    whole_numbers(left, max(len(run["losses"]) for run in record.tables["runs"]))
    right.set(xlabel="step", ylabel="worst layer against autograd", ylim=(1e-17, 1e-2))
    right.axhline(1e-4, color="grey", lw=0.8)
    right.axhline(1e-5, color="grey", lw=0.8, ls=":")
    left.legend(frameon=False)
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

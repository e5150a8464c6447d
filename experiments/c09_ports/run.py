"""At a parameter port, no reflection is gradient descent, a curvature for resistance is Newton, inertia is momentum."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.networks import Blueprint, mlp
from worldsheet_lab.plots import CURVES

MISMATCHES = [2.0**-power for power in range(6)]


def reflection(mismatch: float) -> dict[str, float]:
    """Flow −e/R' through a resistance R = m R': measured share of the power sent back, and ((1 − m)/(1 + m))²."""
    weight = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    weight.grad = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    port = ws.ports.Inertial([weight], lr=0.5, momentum=1 - mismatch)
    group = port.param_groups[0]  # first step from rest: flow −lr e, resistance (1 − momentum)/lr
    port.step()
    measured = port.resistance(group) * group["lr"]
    return {
        "mismatch": measured,
        "share": port.reflected_power / port.incident_power,
        "theory": ((1 - measured) / (1 + measured)) ** 2,
    }


def one_step_error() -> float:
    """Distance of a linear layer, after one undamped Newton step, from the least-squares optimum."""
    torch.manual_seed(0)
    net = nn.Linear(20, 5).double()
    x, target = torch.randn(200, 20, dtype=torch.float64), torch.randn(200, 5, dtype=torch.float64)
    chain, port = ws.Chain([net], nn.MSELoss()), ws.ports.Newton(net, damping=0.0, memory=0.0)
    ws.diagnostics.curvature(chain, x, target, port)
    ws.backward(chain, x, target)
    port.step()
    design = torch.cat([x, torch.ones(200, 1, dtype=torch.float64)], 1)
    optimum = torch.linalg.lstsq(design, target).solution.t()
    found = torch.cat([net.weight, net.bias[:, None]], 1)
    return float((found - optimum).norm().detach() / optimum.norm())


def largest_difference(inertia: bool) -> float:
    """Largest difference of any parameter between a port and torch's SGD after 100 steps; 0 is equality of bits."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    port = ws.ports.Inertial(nets[0].parameters(), 0.05) if inertia else ws.ports.Resistive(nets[0].parameters(), 0.05)
    sgd = torch.optim.SGD(nets[1].parameters(), 0.05, momentum=0.9 if inertia else 0.0)
    for _ in range(100):
        x, y = torch.randn(16, 6), torch.randn(16, 3)
        for net, optimizer in zip(nets, (port, sgd), strict=True):
            optimizer.zero_grad()
            ws.backward(ws.Chain(net, nn.MSELoss()), x, y)
            optimizer.step()
    pairs = zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    return max(float((one - other).abs().max().detach()) for one, other in pairs)


@cache
def digits() -> DataSet:
    return load("digits")


PORTS: dict[str, Any] = {
    "resistive": (ws.ports.Resistive, (0.05, 0.1, 0.2, 0.4)),
    "inertial": (ws.ports.Inertial, (0.01, 0.02, 0.05, 0.1)),
    "newton, loss's credits": (partial(ws.ports.Newton, damping=0.03), (0.1, 0.2, 0.4)),
    "newton, Gauss–Newton": (partial(ws.ports.Newton, damping=0.03), (0.1, 0.2, 0.4)),
}


def curve(name: str, lr: float, epochs: int) -> dict[str, list[float]]:
    """Training loss after every epoch, and test accuracy, of a tanh MLP on the digits."""
    data = digits()
    torch.manual_seed(0)
    net = mlp(Blueprint(data.input_shape, 10, 4, 64, "tanh", 0.0))
    port = PORTS[name][0](net if "newton" in name else net.parameters(), lr=lr)
    chain = ws.Chain(net, nn.CrossEntropyLoss())
    seen = port.attach(chain) if name.endswith("credits") else chain
    generator, losses, accuracies, echoes = torch.Generator().manual_seed(0), [], [], []
    for _ in range(epochs):
        order, shares = torch.randperm(len(data.train_images), generator=generator), []
        for chosen in order.split(64):
            x, y = data.train_images[chosen], data.train_labels[chosen]
            port.zero_grad()
            if name.endswith("Newton"):
                ws.diagnostics.curvature(chain, x, y, port)
            ws.backward(seen, x, y)
            port.step()
            shares.append(port.reflected_power / port.incident_power)
        with torch.no_grad():
            losses.append(float(chain.loss(net(data.train_images), data.train_labels)))
            right = net(data.test_images).argmax(1) == data.test_labels
            accuracies.append(100 * float(right.double().mean()))
        echoes.append(sum(shares) / len(shares))
    return {"loss": losses, "accuracy": accuracies, "reflected": echoes}


def measure(size: Size, cells: Cells) -> Findings:
    """Three identities to the last digit, and three curves, each at its own best rate."""
    epochs = 4 if size is Size.SMALL else 12
    mismatches = [cells.get(f"mismatch {m}", partial(reflection, m)) for m in MISMATCHES]
    curves = []
    for name, (_, rates) in PORTS.items():
        tried = {lr: cells.get(f"{name} {lr}", partial(curve, name, lr, epochs)) for lr in rates}
        best = min(tried, key=lambda lr: _final(tried[lr]["loss"]))
        curves.append({"port": name, "lr": best, **tried[best]})
    figures = {
        "resistive against SGD": cells.get("bits resistive", partial(largest_difference, False)),
        "inertial against momentum": cells.get("bits inertial", partial(largest_difference, True)),
        "newton against least squares": cells.get("least squares", one_step_error),
        "reflection against theory": max(abs(row["share"] - row["theory"]) for row in mismatches),
        **{f"loss of {row['port']} after {epochs} epochs": row["loss"][-1] for row in curves},
        **{f"accuracy of {row['port']} after {epochs} epochs": row["accuracy"][-1] for row in curves},
    }
    return Findings(figures, {"mismatch": mismatches, "curves": curves})


def _final(losses: list[float]) -> float:
    """The last loss; not a number counts as infinite."""
    return losses[-1] if losses[-1] == losses[-1] else float("inf")


def draw(record: Record, path: Path) -> None:
    """Reflected share against mismatch; training loss against epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    rows = record.tables["mismatch"]
    fine = torch.logspace(-1.6, 0, 100).tolist()
    left.plot(fine, [((1 - m) / (1 + m)) ** 2 for m in fine], color="grey", label="((R − R')/(R + R'))²")
    left.plot([row["mismatch"] for row in rows], [row["share"] for row in rows], "o", label="measured")
    left.set(xscale="log", xlabel="resistance / resistance that the flow matches", ylabel="reflected share of power")
    left.legend(loc="lower left")
    for row, look in zip(record.tables["curves"], CURVES, strict=False):
        epochs = range(1, len(row["loss"]) + 1)
        right.plot(epochs, row["loss"], **look, markersize=4, label=f"{row['port']}, lr {row['lr']}")
    right.set(yscale="log", xlabel="epoch", ylabel="training loss, digits (nats per image)")
    right.legend(fontsize=8, loc="upper right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

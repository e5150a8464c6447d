"""C8: waves relax to backprop's fields in O(L) ticks, their energy decays, reflections vanish when matched."""

import math
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet.dynamics.impedance import power_gains
from worldsheet.problem import linearise
from worldsheet_lab.plots import CURVES

WIDTH, BATCH, GOAL, TICKS = 16, 8, 1e-3, 8
DEPTHS = {Size.SMALL: (4, 8, 16), Size.FULL: (4, 8, 16, 32, 64)}
FREE = math.inf
NEVER = 1e-30  # of all fields together: at L = 64 and a gain of a half some fields are 1e-19


def plain(activation: type[nn.Module], gain: float) -> nn.Module:
    """φ(g W x) with W of norm-keeping size."""
    linear = nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)
    nn.init.normal_(linear.weight, std=gain / math.sqrt(WIDTH))
    return nn.Sequential(linear, activation())


def residual(activation: ws.nn.Nonlinearity, gain: float) -> nn.Module:
    """x + k W φ(x)."""
    return ws.nn.ResidualLinear(WIDTH, gain / math.sqrt(WIDTH), activation).double()


NETS: dict[str, Callable[[], nn.Module]] = {
    "tanh, gain 0.5": lambda: plain(nn.Tanh, 0.5),
    "tanh, gain 1": lambda: plain(nn.Tanh, 1.0),
    "relu, gain √2": lambda: plain(nn.ReLU, math.sqrt(2)),
    "residual tanh, 0.5": lambda: residual(ws.nn.Nonlinearity.TANH, 0.5),
    "residual relu, 0.3": lambda: residual(ws.nn.Nonlinearity.RELU, 0.3),
}

Case = tuple[ws.Chain, Tensor, Tensor]


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    """½‖output − target‖² per sample."""
    return 0.5 * (output - target).square().sum(1).mean()


def problem(net: str, depth: int) -> Case:
    """`depth` equal blocks with random weights and data, in float64."""
    torch.manual_seed(depth)
    chain = ws.Chain([NETS[net]() for _ in range(depth)], half_squares)
    x, target = torch.randn(2, BATCH, WIDTH, dtype=torch.float64)
    return chain, x, target


def power_ratios(case: Case) -> tuple[float, ...]:
    """z_l = z_{l-1}‖J_l‖²_F/n_l exactly, with z_L = 1: `Matched` with contracting layers too."""
    with linearise(*case) as linearised:
        gains = power_gains(linearised)
    found = [1.0]
    for gain in reversed(gains[1:]):
        found.append(found[-1] / gain)
    return tuple(reversed(found))


RULES: dict[str, Callable[[Case], ws.Wave]] = {
    "linear, z = 1, matching 0.8": lambda _: ws.Wave(impedance=1.0, limit=FREE),
    "linear, z = 1, matching 0": lambda _: ws.Wave(impedance=1.0, matching=0.0, limit=FREE),
    "linear, power ratios": lambda case: ws.Wave(impedance=power_ratios(case), limit=FREE),
    "linear, Matched(2)": lambda _: ws.Wave(impedance=ws.dynamics.Matched(2.0), limit=FREE),
    "limited, z = 1": lambda _: ws.Wave(impedance=1.0),
    "limited, Matched()": lambda _: ws.Wave(),
    "limited, matching 0.5": lambda _: ws.Wave(matching=0.5),
    "Dyadic(0.95)": lambda _: ws.Dyadic(0.95),
}


def ticks_needed(net: str, depth: int, rule: str) -> int | None:
    """Ticks until every state and costate is within 1e-3 of backprop's; None within 8 L + 40."""
    case = problem(net, depth)
    rest = ws.relax(*case).fields
    record = ws.Record(fields=True)
    stop = ws.Stop(max_ticks=TICKS * depth + 40, tol=NEVER)
    ws.relax(*case, RULES[rule](case), stop=stop, record=record)
    wanted = (*rest.states, *rest.costates)
    for tick, (states, costates) in enumerate(record.moments):
        pairs = zip((*states, *costates), wanted, strict=True)
        if all(float((own - exact).norm()) <= GOAL * float(exact.norm()) for own, exact in pairs):
            return tick
    return None


def linear_line(fitting: bool) -> ws.diagnostics.WaveReport:
    """Six orthogonal layers with gains and the cost k|x − y|²/2, watched for 60 ticks."""
    torch.manual_seed(0)
    gains, k = (1.0, 1.4, 0.7, 1.2, 0.9, 1.1), 2.0
    layers = [nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in gains]
    for layer, gain in zip(layers, gains, strict=True):
        nn.init.orthogonal_(layer.weight)
        layer.weight.data *= gain
    chain = ws.Chain(layers, lambda y, t: k / 2 * (y - t).square().sum())
    z = [1 / k]
    for gain in reversed(gains[1:]):
        z.append(z[-1] / gain**2)
    impedance = tuple(reversed(z)) if fitting else (1.0,) * len(gains)
    x, target = torch.randn(2, 3, 4, dtype=torch.float64)
    wave = ws.calibrate(
        chain, x, target, ws.Wave(speed=1.0, impedance=impedance, matching=0.0, limit=FREE, averaged=False)
    )
    record = ws.Record(fields=True)
    ws.relax(chain, x, target, wave, stop=ws.Stop(max_ticks=60), record=record)
    assert isinstance(wave, ws.Wave)
    return ws.diagnostics.wave_report(chain, x, target, wave, record, ws.relax(chain, x, target).fields)


def energies(fitting: bool) -> dict[str, float | list[float]]:
    """Energy by tick, how well its balance closes, and what junctions reflect."""
    report = linear_line(fitting)
    total = report.energy.sum(1)
    balance = total[1:] - total[:-1] + report.at_output + report.absorbed.sum(1)
    return {
        "energy": [float(value) for value in total / total[0]],
        "imbalance": float(balance.abs().max() / total[0]),
        "reflected": float(report.reflected[0].sum() / total[0]),
    }


def measure(size: Size, cells: Cells) -> Findings:
    """Ticks by net, depth and rule; energy of a linear line."""
    rows = [
        {
            "net": net,
            "rule": rule,
            "depth": depth,
            "ticks": cells.get(f"{net} L={depth} {rule}", lambda n=net, d=depth, r=rule: ticks_needed(n, d, r)),
        }
        for net in NETS
        for rule in RULES
        for depth in DEPTHS[size]
    ]
    lines = {fitting: cells.get(f"line fitting={fitting}", lambda f=fitting: energies(f)) for fitting in (True, False)}
    deepest = max(DEPTHS[size])
    default = [row["ticks"] for row in rows if row["rule"] == "limited, Matched()" and row["depth"] == deepest]
    failed = [row for row in rows if row["rule"].startswith("linear, z = 1") and row["ticks"] is None]
    figures = {
        "default_ticks_per_layer": max(math.inf if t is None else t for t in default) / deepest,
        "default_failures": sum(row["ticks"] is None for row in rows if row["rule"].startswith("limited")),
        "scalar_linear_failures": len(failed),
        "imbalance": max(line["imbalance"] for line in lines.values()),
        "reflected_fitting": lines[True]["reflected"],
        "reflected_unfitting": lines[False]["reflected"],
        "energy_left_fitting": lines[True]["energy"][-1],
        "energy_left_unfitting": lines[False]["energy"][-1],
    }
    tables = {"ticks": rows, "energy": [{"fitting": fitting, **line} for fitting, line in lines.items()]}
    return Findings(figures, tables)


def draw(record: Record, path: Path) -> None:
    """Ticks against depth by rule, the worst net; energy against ticks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for rule, look in zip(RULES, cycle(CURVES), strict=False):
        rows = [row for row in record.tables["ticks"] if row["rule"] == rule]
        depths = sorted({row["depth"] for row in rows})
        worst = [max(row["ticks"] or math.inf for row in rows if row["depth"] == depth) for depth in depths]
        if math.isfinite(min(worst)):
            left.plot(depths, worst, **look, label=rule)
        else:
            left.plot([], [], **look, label=f"{rule}: fails")
    depths = sorted({row["depth"] for row in record.tables["ticks"]})
    left.plot(depths, [2 * depth for depth in depths], color="grey", linestyle=":", label="2L")
    left.set(
        xlabel="depth L", ylabel="ticks to 1e-3, worst of five nets", title="fails: not within 8 L + 40 on some net"
    )
    left.legend(frameon=False, fontsize=7)
    for row, dash in zip(record.tables["energy"], ("-", "--"), strict=False):
        name = "impedances fit: no reflection" if row["fitting"] else "z = 1"
        right.semilogy(row["energy"], dash, label=name)
    right.set(xlabel="tick", ylabel="energy of the lossless wave, as a fraction", title="absorbed by the output alone")
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

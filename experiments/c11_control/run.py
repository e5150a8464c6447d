"""Optimal control by waves over the horizon: exact where that can be checked, and stable where a sweep is not."""

from math import nan, sqrt
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab.control.problems import KNOWN

C = ws.control
DOUBLE = torch.float64
DT = 0.05
HORIZONS = {Size.SMALL: (10, 20, 40, 80), Size.FULL: (10, 20, 40, 80, 160, 320, 640)}
COSTS = {Size.SMALL: (10.0, 1.0, 0.1), Size.FULL: (100.0, 10.0, 1.0, 0.1, 0.01)}
STEPS = {Size.SMALL: (0.2, 0.05), Size.FULL: (0.2, 0.1, 0.05, 0.02)}
RATES = {Size.SMALL: (0.0, 8.0), Size.FULL: (0.0, 2.0, 8.0, 32.0)}
LINEAR = {Size.SMALL: (6, 2, 200), Size.FULL: (12, 4, 1000)}


def mass(steps: int, cost: float = 1.0, start: tuple[float, float] = (1.0, 0.0)) -> C.Problem:
    """A mass on a line, ½∫ x² + v² + cost·u², explicit Euler."""
    return C.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
        running_cost=lambda x, u, t: 0.5 * (x.square().sum(-1) + cost * u.square().sum(-1)),
        terminal_cost=lambda x: 0.5 * x.square().sum(-1),
        initial_state=torch.tensor(start, dtype=DOUBLE),
        control_size=1,
        steps=steps,
        dt=DT,
        integrator=C.ExplicitEuler(),
    )


def linear(size: int, controls: int, steps: int) -> dict[str, float]:
    """The largest error of one pass against the recursion with explicit inverses, on an unstable random system."""
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(size, k, dtype=DOUBLE, generator=generator) for k in (size, controls))
    A = A * 1.1 / torch.linalg.eigvals(A).abs().max()
    start = torch.randn(size, dtype=DOUBLE, generator=generator)
    problem = C.Problem(
        dynamics=lambda x, u, t: x @ A.T + u @ B.T,
        running_cost=lambda x, u, t: 0.5 * (x.square().sum(-1) + u.square().sum(-1)),
        initial_state=start,
        control_size=controls,
        steps=steps,
        integrator=C.Discrete(),
    )
    value, gains = torch.zeros(size, size, dtype=DOUBLE), []
    for _ in range(steps):
        gain = torch.linalg.inv(torch.eye(controls, dtype=DOUBLE) + B.T @ value @ B) @ B.T @ value @ A
        value = torch.eye(size, dtype=DOUBLE) + A.T @ value @ (A - B @ gain)
        gains.append(gain)
    states = [start]
    for gain in reversed(gains):
        states.append(A @ states[-1] - B @ (gain @ states[-1]))
    sol = C.solve(problem, max_ticks=1)
    return {"error": float((sol.states - torch.stack(states)).abs().max()), "ticks": float(sol.outcome.ticks)}


def swing_up() -> dict[str, float]:
    sol = C.solve(KNOWN["pendulum"].problem())
    return {"cost": float(sol.cost), "ticks": float(sol.outcome.ticks)}


def cell(steps: int, cost: float) -> dict[str, Any]:
    """Ticks of the wave and of the best of three sweeps, None where they fail; z = 1/√cost, the characteristic one."""
    problem = mass(steps, cost)
    wave = C.solve(problem, ws.Wave(impedance=1 / sqrt(cost), speed=0.7), tol=1e-4, max_ticks=4000)
    sweeps = [C.solve(problem, C.ForwardBackwardSweep(omega), tol=1e-4, max_ticks=200) for omega in (0.5, 0.1, 0.02)]
    best = min((s.outcome.ticks for s in sweeps if s.outcome.converged), default=None)
    return {"steps": steps, "cost": cost, "wave": wave.outcome.ticks if wave.outcome.converged else None, "sweep": best}


def decay(dt: float, rate: float) -> dict[str, Any]:
    """Ticks of the wave for ẋ = −rate x + u over four units of time, cost ½∫ x² + u², implicit midpoint."""
    problem = C.Problem(
        dynamics=lambda x, u, t: u - rate * x,
        running_cost=lambda x, u, t: 0.5 * (x.square() + u.square()).sum(-1),
        initial_state=torch.ones(1, dtype=DOUBLE),
        control_size=1,
        steps=round(4 / dt),
        dt=dt,
        integrator=C.ImplicitMidpoint(1),
    )
    wave = C.solve(problem, ws.Wave(impedance=1.0, speed=0.7), tol=1e-4, max_ticks=4000)
    return {"dt": dt, "rate": rate, "wave": wave.outcome.ticks if wave.outcome.converged else None}


def stated(steps: int) -> dict[str, float]:
    """The wave with z = 0.3 and step 0.45, and the sweep with relaxation 0.5."""
    problem = mass(steps)
    wave = C.solve(problem, ws.Wave(impedance=0.3, speed=0.45), tol=1e-4, max_ticks=5000)
    sweep = C.solve(problem, C.ForwardBackwardSweep(0.5), tol=1e-4, max_ticks=200)
    return {
        "wave": float(wave.outcome.ticks) if wave.outcome.converged else nan,
        "sweep": float(sweep.outcome.converged),
    }


def energy() -> dict[str, Any]:
    """Σ |δx|²/z + z|δλ|² of the deviation from the solution, tick by tick, from noise."""
    problem, z = mass(80), 1.0
    exact = C.solve(problem, tol=1e-12)
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(exact.states.shape, dtype=DOUBLE, generator=generator) for _ in range(2)]
    guess = C.Guess(exact.controls, exact.states + noise[0], exact.costates + noise[1])
    history = C.History(every=5)
    C.solve(problem, ws.Wave(impedance=z, speed=0.2), guess, 1e-12, 1500, history)
    deviation = (history.states - exact.states)[:, 1:], (history.costates - exact.costates)[:, 1:]
    found = deviation[0].square().sum((1, 2)) / z + z * deviation[1].square().sum((1, 2))
    rises = (found[1:] / found[:-1] - 1).clamp(min=0)
    return {
        "ticks": history.ticks,
        "energy": found.tolist(),
        "largest_rise": float(rises.max()),
        "left": float(found[-1] / found[0]),
    }


def echo(ratio: float) -> dict[str, Any]:
    """A smooth pulse in a transparent medium: what the end reflects at z k = ratio, and then the start."""
    steps, z, speed, width = 120, 1.0, 0.5, 8.0
    problem = C.Problem(
        dynamics=lambda x, u, t: x + 1e-9 * u,
        running_cost=lambda x, u, t: 0.5 * u.square().sum(-1),
        terminal_cost=lambda x: 0.5 * ratio / z * x.square().sum(-1),
        initial_state=torch.zeros(1, dtype=DOUBLE),
        control_size=1,
        steps=steps,
        integrator=C.Discrete(),
    )
    place = torch.arange(steps + 1, dtype=DOUBLE)[:, None]
    pulse = (-(((place - steps / 2) / width) ** 2)).exp()
    history = C.History(every=2)
    guess = C.Guess(states=pulse / 2, costates=pulse / 2 / z)
    C.solve(problem, ws.Wave(impedance=z, speed=speed), guess, 1e-14, int(1.75 * steps / speed), history)
    up = (history.states + z * history.costates)[..., 0]
    down = (history.states - z * history.costates)[..., 0]
    first, second = _row(history, steps / speed), _row(history, 1.75 * steps / speed)
    return {
        "ratio": ratio,
        "end": float(down[first, 1:].sum() / up[0, 1:].sum()),
        "start": float(up[second, 1:].sum() / down[first, 1:].sum()) if ratio != 1 else None,
        "stated": (1 - ratio) / (1 + ratio),
    }


class Flow(nn.Module):
    """A neural flow in three dimensions and a reading of where it ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rate = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 3)).double()
        self.reading = nn.Linear(3, 1).double()

    def forward(self, x: Tensor, u: Tensor, t: Tensor, label: Tensor) -> Tensor:
        rate: Tensor = self.rate(x)
        return rate

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.reading(x), label, reduction="none")[..., 0]


def spirals(count: int) -> tuple[Tensor, Tensor]:
    """Two arms of half a turn and a half, (count, 3) with a third coordinate of zeros, and labels (count, 1)."""
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(count) % 2).to(DOUBLE)[:, None]
    along = torch.rand(count, 1, dtype=DOUBLE, generator=generator)
    angle = 4.7 * along + torch.pi * label
    arm = (0.3 + 1.5 * along) * torch.cat((angle.cos(), angle.sin()), -1)
    return nn.functional.pad(arm + 0.05 * torch.randn(count, 2, dtype=DOUBLE, generator=generator), (0, 1)), label


def spiral(updates: int, *, by_costates: bool) -> dict[str, Any]:
    """Train a flow on two spirals, gradients by costates or by autograd through all stages."""
    flow, (points, label), steps, dt = Flow(), spirals(120), 8, 0.25
    leaves = dict(flow.named_parameters())
    optimizer = torch.optim.Adam(leaves.values(), 0.02)
    problem = C.Problem(
        dynamics=flow,
        running_cost=lambda x, u, t, label: 0 * x[..., 0],
        terminal_cost=flow.loss,
        initial_state=points,
        control_size=0,
        steps=steps,
        dt=dt,
        integrator=C.ExplicitEuler(),
        parameters=label,
    )
    for _ in range(updates):
        optimizer.zero_grad()
        if by_costates:
            C.solve(problem).accumulate(leaves)
        else:
            x = points
            for _ in range(steps):
                x = x + dt * flow.rate(x)
            flow.loss(x, label).sum().backward()
        optimizer.step()
    end = C.solve(problem).states[:, -1]
    right = ((flow.reading(end) > 0) == (label > 0.5)).double().mean()
    return {
        "accuracy": float(right),
        "weights": [value for leaf in leaves.values() for value in leaf.flatten().tolist()],
    }


def _row(history: C.History, tick: float) -> int:
    return min(range(len(history.ticks)), key=lambda row: abs(history.ticks[row] - tick))


def measure(size: Size, cells: Cells) -> Findings:
    exact = cells.get("linear", lambda: linear(*LINEAR[size]))
    pendulum = cells.get("pendulum", swing_up)
    passive = cells.get("energy", energy)
    echoes = [cells.get(f"echo {ratio:g}", lambda ratio=ratio: echo(ratio)) for ratio in (0.25, 1.0, 4.0)]
    ticks = {steps: cells.get(f"stated N={steps}", lambda steps=steps: stated(steps)) for steps in (20, 100, 400)}
    rows = [
        cells.get(f"N={steps} R={cost:g}", lambda steps=steps, cost=cost: cell(steps, cost))
        for cost in COSTS[size]
        for steps in HORIZONS[size]
    ]
    decays = [
        cells.get(f"dt={dt:g} rate={rate:g}", lambda dt=dt, rate=rate: decay(dt, rate))
        for rate in RATES[size]
        for dt in STEPS[size]
    ]
    updates = 60 if size is Size.SMALL else 400
    local, whole = (
        cells.get(f"spiral {name}", lambda flag=flag: spiral(updates, by_costates=flag))
        for name, flag in (("costates", True), ("autograd", False))
    )
    apart = max(abs(a - b) for a, b in zip(local["weights"], whole["weights"], strict=True))
    return Findings(
        {
            "spiral_accuracy": local["accuracy"],
            "spiral_accuracy_autograd": whole["accuracy"],
            "spiral_weights_apart": apart,
            "riccati_error": exact["error"],
            "riccati_ticks": exact["ticks"],
            "pendulum_cost": pendulum["cost"],
            "pendulum_ticks": pendulum["ticks"],
            "energy_largest_rise": passive["largest_rise"],
            "energy_left": passive["left"],
            "echo_error": max(abs(row["end"] - row["stated"]) for row in echoes),
            "start_echo": echoes[2]["start"],
            **{f"wave_ticks_{steps}": row["wave"] for steps, row in ticks.items()},
            "sweep_converges_at_400": ticks[400]["sweep"],
            "map_wave_fails": float(sum(row["wave"] is None for row in rows)),
            "map_sweep_fails": float(sum(row["sweep"] is None for row in rows)),
            "map_cells": float(len(rows)),
            "decay_fails": float(sum(row["wave"] is None for row in decays)),
        },
        {"map": rows, "echoes": echoes, "energy": [passive], "decays": decays},
    )


def draw(record: Record, path: Path) -> None:
    figure = Figure(figsize=(13, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    for axes, key, name in ((panels[0], "sweep", "best sweep"), (panels[1], "wave", "wave")):
        _map(figure, axes, record.tables["map"], key, name)
    passive = record.tables["energy"][0]
    panels[2].semilogy(passive["ticks"], passive["energy"], color="tab:blue")
    panels[2].set(title="energy of the deviation", xlabel="tick")
    rows = record.tables["echoes"]
    curve = torch.logspace(-1, 1, 50)
    panels[3].semilogx(curve, (1 - curve) / (1 + curve), color="0.7", label="(1 − zk)/(1 + zk)")
    panels[3].semilogx([r["ratio"] for r in rows], [r["end"] for r in rows], "o", color="tab:red", label="measured")
    panels[3].set(title="reflection at the end", xlabel="z k")
    panels[3].legend(frameon=False)
    for axes in panels[2:]:
        axes.grid(alpha=0.25)
    figure.savefig(path)


def _map(figure: Figure, axes: Any, rows: Any, key: str, name: str) -> None:
    """Ticks over horizon and control cost; white where it fails."""
    horizons, costs = (sorted({row[axis] for row in rows}) for axis in ("steps", "cost"))
    values = Tensor(
        [
            [next(row[key] or nan for row in rows if (row["steps"], row["cost"]) == (n, r)) for n in horizons]
            for r in costs
        ]
    )
    image = axes.imshow(values.numpy(), origin="lower", norm=LogNorm(5, 4000), cmap="viridis", aspect="auto")
    axes.grid(visible=False)
    axes.set(title=f"ticks of the {name} (white: fails)", xlabel="stages N", ylabel="control cost R")
    axes.set_xticks(range(len(horizons)), horizons)
    axes.set_yticks(range(len(costs)), [f"{cost:g}" for cost in costs])
    figure.colorbar(image, ax=axes)


if __name__ == "__main__":
    experiment(__file__, measure, draw)

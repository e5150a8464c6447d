"""Many problems at once: swing-ups, and ticks of equal layers stacked."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import final

import torch
from torch import nn

import worldsheet as ws
from benchmarks.gpu.plan import Figures, Item, Part, Plan
from benchmarks.models import tanh_mlp
from benchmarks.timing import Stopwatch, in_turns, paired_ratios, spread
from worldsheet.control import solve
from worldsheet.diagnostics.autograd import autograd_backward
from worldsheet_lab.control.problems import KNOWN


def swing_ups(name: str, plan: Plan) -> Figures:
    """A few thousand initial states in one solve, after two ticks of a few of them, so that kernels are there."""
    known, wait = KNOWN[name], partial(torch.get_device_module(plan.device).synchronize, plan.device)
    count = plan.sized(4096, 16)
    start = known.batch(count, torch.Generator().manual_seed(0)).initial_state.to(plan.device)
    solve(known.build(start[:8]), max_ticks=2)
    wait()
    begun = time.monotonic()
    sol = solve(known.build(start))
    wait()
    seconds = time.monotonic() - begun
    share, most = float(sol.converged.double().mean()), float(sol.ticks.max())
    return {
        "problems": float(count),
        "seconds": seconds,
        "per second": count / seconds,
        "solved": share,
        "ticks": most,
    }


def ticks(width: int, plan: Plan) -> Figures:
    """Ticks of PC-ALM on 32 equal layers, stacked and site by site, beside one gradient by autograd."""
    depth, count = plan.sized(32, 6), plan.sized(16, 4)
    torch.manual_seed(0)
    width = plan.sized(width, 16)
    chain = ws.Chain(tanh_mlp(width, width, depth).to(plan.device), nn.CrossEntropyLoss())
    x = torch.randn(64, 1, 1, width, device=plan.device)
    target = torch.randint(10, (64,), device=plan.device)
    dynamics, stop = ws.AugmentedLagrangian(rate=0.1), ws.Stop(max_ticks=count)
    relax = partial(ws.relax, chain, x, target, dynamics, schedule=ws.Synchronous(), stop=stop)
    steps: dict[str, Callable[[], object]] = {
        "autograd": partial(autograd_backward, chain, x, target),
        "stacked": relax,
        "site by site": partial(relax, stack=False),
    }
    for step in (*steps.values(), *steps.values()):
        step()
    watch = Stopwatch(wait=partial(torch.get_device_module(plan.device).synchronize, plan.device))
    taken = in_turns(steps, plan.sized(10, 2), watch)
    return {
        "stacked ms a tick": 1e3 * spread(taken["stacked"]).median / count,
        "site by site ms a tick": 1e3 * spread(taken["site by site"]).median / count,
        "gain by stacking": paired_ratios(taken["site by site"], taken["stacked"]).median,
        "autograd ms a gradient": 1e3 * spread(taken["autograd"]).median,
    }


@final
class Batches(Part):
    """What a device is for."""

    @property
    def name(self) -> str:
        """Of its file and its rows."""
        return "batches"

    @property
    def seconds(self) -> float:
        """How long it may take on a GPU."""
        return 70.0

    def items(self, plan: Plan) -> Sequence[Item]:
        """Pendulums, cart-poles, ticks."""
        items = [Item(f"swing-ups, {name}", partial(swing_ups, name, plan)) for name in ("pendulum", "cartpole")]
        return [*items, *(Item(f"PC-ALM, width {width}", partial(ticks, width, plan)) for width in (128, 1024))]

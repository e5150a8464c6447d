"""Whether a device finds what autograd finds there, and what the CPU finds in float64."""

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import isnan
from pathlib import Path
from typing import NamedTuple, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

import worldsheet as ws
from benchmarks.architectures import GPT, ResNet
from benchmarks.gpu.plan import Figures, Item, NotHereError, Part, Plan, with_loss
from benchmarks.gpu.stages import trained
from worldsheet.control import solve
from worldsheet.diagnostics.autograd import autograd_backward
from worldsheet.streaming import Dense, HamiltonianNetwork, random
from worldsheet_lab.control.problems import KNOWN

_TICKS = 12


class Precision(NamedTuple):
    """Of a computation, with the relative difference of two ways to add the same numbers up."""

    dtype: torch.dtype
    autocast: bool
    allowed: float

    def region(self, device: torch.device) -> AbstractContextManager[object]:
        """Autocast, or nothing."""
        return torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext()


PRECISIONS = {
    "float64": Precision(torch.float64, False, 1e-9),
    "float32": Precision(torch.float32, False, 1e-3),
    "bf16 autocast": Precision(torch.float32, True, 5e-2),
}

DYNAMICS: dict[str, Callable[[], ws.dynamics.Dynamics]] = {
    "Dyadic": ws.Dyadic,
    "Wave, matched": lambda: ws.Wave(impedance=ws.dynamics.Matched()),
    "Wave, one number": lambda: ws.Wave(impedance=1.0),
    "PredictiveCoding": ws.PredictiveCoding,
    "AugmentedLagrangian": ws.AugmentedLagrangian,
}


def _perceptron() -> nn.Module:
    layers = [nn.Sequential(nn.Linear(24, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Dropout(0.1)) for _ in range(5)]
    return nn.Sequential(*layers, nn.Linear(24, 5))


def _equal_layers() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Linear(24, 24), nn.Tanh()) for _ in range(6)], nn.Linear(24, 5))


def _encoder() -> nn.Module:
    layers = [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True) for _ in range(2)]
    return nn.Sequential(*layers, nn.Linear(16, 5))


class Model(NamedTuple):
    """A network, and one batch for it."""

    make: Callable[[], nn.Module]
    x: Callable[[], Tensor]
    target: Callable[[], Tensor]


MODELS = {
    "perceptron": Model(_perceptron, lambda: torch.randn(16, 24), lambda: torch.randint(5, (16,))),
    "ResNet": Model(lambda: ResNet(5, 8, (1, 1)), lambda: torch.randn(8, 3, 16, 16), lambda: torch.randint(5, (8,))),
    "GPT": Model(
        lambda: GPT(11, 12, 16, 2, 2, 0.1), lambda: torch.randint(11, (4, 12)), lambda: torch.randint(11, (4, 12))
    ),
    "encoder": Model(_encoder, lambda: torch.randn(4, 6, 16), lambda: torch.randint(5, (4, 6))),
}


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over all positions, in single precision at least."""
    output = output.float() if output.dtype == torch.bfloat16 else output
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())


def problem(model: Model, device: torch.device, dtype: torch.dtype) -> tuple[ws.Chain, Tensor, Tensor]:
    """The same weights and numbers on any device and in any precision."""
    torch.manual_seed(0)
    module, x, target = model.make().to(device, dtype), model.x(), model.target()
    x = x.to(device, dtype) if x.is_floating_point() else x.to(device)
    return ws.Chain(module, loss), x, target.to(device)


def backward(model: Model, precision: Precision, device: torch.device) -> Figures:
    """`ws.backward` beside `loss.backward()`: gradients, statistics and generator from the same seed."""
    found = []
    for gradient in (ws.backward, autograd_backward):
        chain, x, target = problem(model, device, precision.dtype)
        torch.manual_seed(1)
        with precision.region(device):
            gradient(chain, x, target)
        found.append((_gradients(chain), [*_buffers(chain)], _drawn(device)))
    (ours, our_buffers, our_draw), (theirs, their_buffers, their_draw) = found
    same = all(
        torch.allclose(a.double(), b.double(), 1e-3, 1e-5) for a, b in zip(our_buffers, their_buffers, strict=True)
    )
    if not same or our_draw != their_draw:
        return with_loss(float("inf"), precision.allowed, reason="other statistics or another state of the generator")
    return with_loss(distance(ours, theirs), precision.allowed)


def relaxed(model: Model, precision: Precision, device: torch.device) -> Figures:
    """The dyadic relaxation, literally, beside autograd under the same masks."""
    chain, x, target = problem(model, device, precision.dtype)
    with precision.region(device):
        sol = ws.relax(chain, x, target, schedule=ws.Synchronous())
        compared = ws.compare(chain, x, target, sol)
    return with_loss(compared.relative_error, precision.allowed, ticks=float(sol.outcome.ticks))


def dynamics(model: Model, make: Callable[[], ws.dynamics.Dynamics], device: torch.device) -> Figures:
    """A dozen ticks on the device beside the same ticks site by site on the CPU, both in float64."""
    found = []
    for where, stack in ((device, True), (torch.device("cpu"), False)):
        chain, x, target = problem(model, where, torch.float64)
        assert isinstance(chain.module, nn.Module)
        chain.module.eval()
        sol = ws.relax(
            chain, x, target, make(), schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=_TICKS, tol=None), stack=stack
        )
        found.append([*sol.fields.states, *sol.fields.costates])
    return with_loss(distance(*found), 1e-9)


def compiled(device: torch.device) -> Figures:
    """Equal layers without a closed form, moved by compiled code."""
    layers = [nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU()) for _ in range(4)]
    model = Model(lambda: nn.Sequential(*layers), lambda: torch.randn(8, 16), lambda: torch.randint(16, (8,)))
    found = []
    for compile_ in (True, False):
        chain, x, target = problem(model, device, torch.float64)
        stop = ws.Stop(max_ticks=4)
        dynamics = ws.PredictiveCoding(0.1)
        sol = ws.relax(chain, x, target, dynamics, schedule=ws.Synchronous(), stop=stop, compile=compile_)
        found.append([*sol.fields.states, *sol.fields.costates])
    return with_loss(distance(*found), 1e-9)


def unlocked(device: torch.device) -> Figures:
    """Parameters that move at every tick, on the device and on the CPU."""
    found = []
    for where in (device, torch.device("cpu")):
        chain, x, target = problem(MODELS["ResNet"], where, torch.float64)
        port = torch.optim.SGD(chain.parameters(), 1e-3, 0.9)
        ws.unlocked(chain, x, target, port, ticks=_TICKS)
        found.append([p.detach() for p in chain.parameters()])
    return with_loss(distance(*found), 1e-9)


def pipeline(device: torch.device) -> Figures:
    """Three stages in one process, on the device and on the CPU."""
    found = [trained(3, where, torch.float64) for where in (device, torch.device("cpu"))]
    return with_loss(distance(*found), 1e-9)


def processes(backend: str, device: torch.device) -> Figures:
    """Two stages in two processes on one device, beside the same stages in one process there."""
    if backend == "nccl" and (not dist.is_nccl_available() or torch.cuda.device_count() < 2):
        raise NotHereError(
            "NCCL lets no two processes share a GPU, and there is only one" if device.type == "cuda" else "no GPU"
        )
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.gpu.stages", backend, str(device), folder]
        running = [subprocess.Popen([*words, str(rank)]) for rank in range(2)]
        try:
            status = [process.wait(60) for process in running]
        finally:
            for process in running:
                process.kill()
        if any(status):
            raise RuntimeError(f"processes ended with {status}")
        parts = [torch.load(Path(folder) / f"{rank}.pt", map_location=device) for rank in range(2)]
    return with_loss(distance([each for part in parts for each in part], trained(2, device, torch.float32)), 0.0)


def control(name: str, device: torch.device, count: int) -> Figures:
    """A batch of swing-ups on the device and on the CPU: costs and controls."""
    found = []
    for where in (device, torch.device("cpu")):
        start = KNOWN[name].batch(count, torch.Generator().manual_seed(0)).initial_state
        sol = solve(KNOWN[name].build(start.to(where)))
        found.append([sol.cost[sol.converged], sol.controls[sol.converged]])
    return with_loss(distance(*found), 1e-5)


def stream(sparse: bool, device: torch.device) -> Figures:
    """Fifty steps of learning in real time on the device and on the CPU."""
    found = []
    for where in (device, torch.device("cpu")):
        graph = random(40, 5, torch.Generator().manual_seed(0)) if sparse else Dense(24)
        net = HamiltonianNetwork(graph, inputs=range(3), outputs=[11, 10], dtype=torch.float64, device=where)
        draw = torch.Generator().manual_seed(1)
        for _ in range(50):
            x, target = torch.randn(1, 3, generator=draw), torch.randn(1, 2, generator=draw)
            net.step(x.double(), target.double(), 0.01)
        found.append(list(net.point))
    return with_loss(distance(*found), 1e-9)


def waits(model: Model, device: torch.device) -> Figures:
    """How often a training step makes the host wait, as torch counts it."""
    if device.type != "cuda":
        raise NotHereError("torch counts this on a GPU only")
    chain, x, target = problem(model, device, torch.float32)
    optimizer = torch.optim.SGD(chain.parameters(), 0.1, 0.9)
    for _ in range(2):
        ws.backward(chain, x, target)
        optimizer.step()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            ws.backward(chain, x, target)
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return with_loss(float(sum("synchronizing" in str(each.message) for each in found)), 1.0)


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest ‖a − b‖/‖b‖, on the CPU in float64; a NaN is infinitely far."""
    assert len(ours) == len(theirs) > 0
    pairs = [(a.detach().cpu().double(), b.detach().cpu().double()) for a, b in zip(ours, theirs, strict=True)]
    sizes = [float((a - b).norm() / (b.norm() or 1.0)) for a, b in pairs]
    return float("inf") if any(map(isnan, sizes)) else max(sizes)


def _gradients(chain: ws.Chain) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in chain.parameters()]


def _buffers(chain: ws.Chain) -> list[Tensor]:
    assert isinstance(chain.module, nn.Module)
    return [buffer.clone() for buffer in chain.module.buffers()]


def _drawn(device: torch.device) -> float:
    """The next random number there: whether as many were drawn before."""
    return float(torch.rand((), device=device))


@final
class Parity(Part):
    """Everything that computes, once."""

    @property
    def name(self) -> str:
        """Of its file and its rows."""
        return "parity"

    @property
    def seconds(self) -> float:
        """How long it may take on a GPU."""
        return 120.0

    def items(self, plan: Plan) -> Sequence[Item]:
        """Gradients first, then fields, stages, control, streams and the compiler."""
        device = plan.device
        items = [
            Item(f"{way.__name__}, {model}, {precision}", partial(way, MODELS[model], PRECISIONS[precision], device))
            for way in (backward, relaxed)
            for model in MODELS
            for precision in PRECISIONS
        ]
        items += [Item(f"waits of a step, {model}", partial(waits, MODELS[model], device)) for model in MODELS]
        equal = Model(_equal_layers, MODELS["perceptron"].x, MODELS["perceptron"].target)
        for kind, model in (("equal layers", equal), ("ResNet", MODELS["ResNet"])):
            items += [
                Item(f"{name}, {kind}", partial(dynamics, model, make, device)) for name, make in DYNAMICS.items()
            ]
        items += [Item("unlocked, ResNet", partial(unlocked, device)), Item("pipeline", partial(pipeline, device))]
        items += [Item(f"two processes, {name}", partial(processes, name, device)) for name in ("gloo", "nccl")]
        count = plan.sized(64, 3)
        items += [Item(f"control, {name}", partial(control, name, device, count)) for name in ("pendulum", "cartpole")]
        items += [Item(f"stream, {kind}", partial(stream, kind == "sparse", device)) for kind in ("dense", "sparse")]
        return [*items, Item("compile=True", partial(compiled, device))]

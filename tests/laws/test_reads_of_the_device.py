"""How often a training step waits for the device: once, to know that its loss is finite.

On a GPU torch itself counts (sync debug mode). On the CPU whatever would make the host wait there is caught: numbers
and lists that Python asks for, copies to the host, and operations whose result's shape depends on values.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import worldsheet as ws
from benchmarks.architectures import GPT, ResNet
from worldsheet.pipeline import Pipeline
from worldsheet.pipeline.ledger import UPDATES_BETWEEN_LOOKS
from worldsheet.streaming import Dense, HamiltonianNetwork

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
DEVICES = ["cpu", CUDA]

aten = torch.ops.aten
_WAITING = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.nonzero,
    aten.equal,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.bincount,
}


class _Waits(TorchDispatchMode):
    """Counts operations that a GPU would make the host wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        self.count += func.overloadpacket in _WAITING or masked
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How often the host has waited inside."""
    if device == "cuda":
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lambda: sum("synchronizing" in str(each.message) for each in found)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return
    extra = [0]
    for name in ("tolist", "numpy", "cpu"):
        own = getattr(Tensor, name)

        def asked(self: Tensor, *args: Any, own: Any = own, **kwargs: Any) -> Any:
            extra[0] += 1
            return own(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, asked)
    with _Waits() as waits:
        yield lambda: waits.count + extra[0]


def mlp() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)], nn.Linear(8, 5))


MODELS = {
    "mlp": (mlp, lambda: torch.randn(4, 8), lambda: torch.randint(5, (4,))),
    "resnet": (lambda: ResNet(5, 4, (1, 1)), lambda: torch.randn(4, 3, 8, 8), lambda: torch.randint(5, (4,))),
    "gpt": (lambda: GPT(7, 6, 8, 2, 2), lambda: torch.randint(7, (2, 6)), lambda: torch.randint(7, (2, 6))),
}


def loss(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())


def problem(name: str, device: str) -> tuple[ws.Chain, Tensor, Tensor]:
    torch.manual_seed(0)
    make, x, target = MODELS[name]
    return ws.Chain(make().to(device), loss), x().to(device), target().to(device)


def test_a_wait_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3)
    with counted("cpu", monkeypatch) as count:
        assert count() == 0
        x.sum().item()
        assert bool(x.isfinite().all())
        x.tolist()
        float(x[0])
        x[x > 0]
        assert count() == 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_waits_once(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x, target = problem(name, device)
    optimizer = torch.optim.SGD(chain.parameters(), 0.1, 0.9)

    def step() -> None:
        optimizer.zero_grad()
        ws.backward(chain, x, target)
        optimizer.step()

    for _ in range(2):
        step()
    with counted(device, monkeypatch) as count:
        step()
        assert count() == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dynamics", "schedule"),
    [
        (ws.Dyadic(), ws.Synchronous()),
        (ws.Wave(1.0, impedance=1.0), ws.Synchronous()),
        (ws.PredictiveCoding(0.1), ws.Synchronous()),
    ],
    ids=str,
)
def test_ticks_do_not_wait(
    name: str,
    dynamics: ws.dynamics.Dynamics,
    schedule: ws.schedules.Schedule,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain, x, target = problem(name, device)
    counts = []
    for ticks in (2, 4):  # fewer than the dyadic is exact after, or it would look whether all has come to rest
        stop = ws.Stop(max_ticks=ticks, tol=None)
        relax = partial(ws.relax, chain, x, target, dynamics, schedule=schedule, stop=stop)
        relax()
        with counted(device, monkeypatch) as count:
            relax()
            counts.append(count())
        monkeypatch.undo()
    assert counts[0] == counts[1] <= 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_looking_whether_residuals_grow_waits_for_nothing(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms of three ticks are read at once, so that nine ticks wait as often as six."""
    chain, x, target = problem(name, device)
    counts = []
    for ticks in (6, 9):
        relax = partial(
            ws.relax,
            chain,
            x,
            target,
            ws.PredictiveCoding(0.1),
            schedule=ws.Synchronous(),
            stop=ws.Stop(max_ticks=ticks),
        )
        relax()
        with counted(device, monkeypatch) as count:
            relax()
            counts.append(count())
        monkeypatch.undo()
    assert counts[0] == counts[1] <= 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_unlocked_waits_once_a_tick(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x, target = problem(name, device)
    port = torch.optim.SGD(chain.parameters(), 1e-3)
    counts = []
    for ticks in (4, 9):
        hold = partial(ws.unlocked, chain, x, target, port, ticks=ticks)
        hold()
        with counted(device, monkeypatch) as count:
            hold()
            counts.append(count())
        monkeypatch.undo()
    assert counts[1] - counts[0] == 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighed", [False, True])
def test_packets_of_a_pipeline_do_not_wait(weighed: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x, target = problem("mlp", device)
    if weighed:  # targets are counted, which only their device can do
        by_class = torch.rand(5, device=device)
        chain, target[0] = chain.with_loss(nn.CrossEntropyLoss(weight=by_class)), -100
    pipeline = Pipeline(chain, 3, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), packets_per_update=2)
    counts = []
    for packets in (4, 8):
        batch = [(x, target)] * packets
        pipeline.train(batch)
        for drain in (False, True):
            with counted(device, monkeypatch) as count:
                pipeline.train(batch, drain=drain)
                counts.append(count())
            monkeypatch.undo()
    assert counts == [1] * 4


def test_a_long_call_looks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x, target = problem("mlp", "cpu")
    pipeline = Pipeline(chain, 2, optimizer=partial(torch.optim.SGD, lr=0.1), packets_per_update=1)
    with counted("cpu", monkeypatch) as count:
        pipeline.train(iter([(x, target)] * (2 * UPDATES_BETWEEN_LOOKS + 1)))
        assert count() == 3


@pytest.mark.parametrize("device", DEVICES)
def test_a_stream_from_the_host_does_not_wait_for_the_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = HamiltonianNetwork(Dense(12), inputs=range(3), outputs=[11, 10], device=device)
    x, target = torch.randn(1, 3), torch.randn(1, 2)
    for _ in range(3):
        net.step(x, target, 0.01)
    with counted(device, monkeypatch) as count:
        for _ in range(8):
            net.step(x, target, 0.01)
        assert count() == (0 if device == "cuda" else 2 * 8)  # the signals, which are the host's, are looked at

"""What a gradient by `ws.backward` costs on a device beside autograd: time and peak memory."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

import worldsheet as ws
from benchmarks.architectures import GPT, ResNet, resnet50
from benchmarks.gpu.parity import loss
from benchmarks.gpu.plan import Figures, Item, Part, Plan
from benchmarks.memory import peak_bytes
from benchmarks.models import tanh_mlp, vgg9
from benchmarks.timing import Stopwatch, in_turns, paired_ratios, spread
from worldsheet.diagnostics.autograd import autograd_backward

_LEAST, _MOST = 3, 60  # rounds


class Case(NamedTuple):
    """A network, at full size and as a toy."""

    make: Callable[[], nn.Module]
    x: Callable[[], Tensor]
    labels: int
    toy: Callable[[], nn.Module]
    toy_x: Callable[[], Tensor]
    autocast: bool = False


def _images(count: int, size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(count, 3, size, size)


CASES = {
    "MLP 30 x 128": Case(
        partial(tanh_mlp, 128, 128, 30),
        lambda: torch.randn(256, 1, 1, 128),
        10,
        partial(tanh_mlp, 16, 16, 6),
        lambda: torch.randn(8, 1, 1, 16),
    ),
    "VGG-9": Case(vgg9, _images(512, 32), 10, vgg9, _images(1, 32)),
    "ResNet-18": Case(ResNet, _images(256, 32), 10, lambda: ResNet(10, 4), _images(2, 16)),
    "ResNet-50": Case(resnet50, _images(256, 32), 10, lambda: resnet50(10, 4), _images(2, 16)),
    "GPT-2 124M": Case(
        partial(GPT, 50257, 1024, 768, 12, 12),
        lambda: torch.randint(50257, (4, 1024)),
        50257,
        partial(GPT, 64, 16, 16, 2, 2),
        lambda: torch.randint(64, (2, 16)),
        autocast=True,
    ),
}


def measured(case: Case, plan: Plan, *, recompute: bool = False) -> Figures:
    """Medians over rounds in which both ways take turns, for a few seconds; memory of one gradient each."""
    torch.manual_seed(0)
    module = plan.sized(case.make, case.toy)().to(plan.device)
    x = plan.sized(case.x, case.toy_x)().to(plan.device)
    shape = x.shape if case.labels > 10 else x.shape[:1]
    target = torch.randint(plan.sized(case.labels, 10), shape, device=plan.device)
    chain = ws.Chain(module, loss)
    region = torch.autocast(plan.device.type, torch.bfloat16) if case.autocast else nullcontext()

    def step(gradient: Callable[..., Tensor]) -> None:
        module.zero_grad()
        with region:
            gradient(chain, x, target)

    ours = partial(ws.backward, recompute=True) if recompute else ws.backward
    steps = {"autograd": partial(step, autograd_backward), "ours": partial(step, ours)}
    for each in (*steps.values(), *steps.values()):
        each()  # kernels are chosen, memory is taken
    watch = Stopwatch(wait=partial(torch.get_device_module(plan.device).synchronize, plan.device))
    begun = time.monotonic()
    steps["ours"]()
    rounds = min(_MOST, max(_LEAST, int(plan.sized(6.0, 0.5) / (2 * (time.monotonic() - begun)))))
    taken = in_turns(steps, rounds, watch)
    memory = {name: peak_bytes(step, plan.device) for name, step in steps.items()}
    return {
        "ratio": paired_ratios(taken["ours"], taken["autograd"]).median,
        "autograd ms": 1e3 * spread(taken["autograd"]).median,
        "ours ms": 1e3 * spread(taken["ours"]).median,
        "memory ratio": memory["ours"] / memory["autograd"],
        "autograd MiB": memory["autograd"] / 2**20,
        "rounds": float(rounds),
    }


@final
class Cost(Part):
    """Time and memory of a gradient."""

    @property
    def name(self) -> str:
        """Of its file and its rows."""
        return "cost"

    @property
    def seconds(self) -> float:
        """How long it may take on a GPU."""
        return 110.0

    def items(self, plan: Plan) -> Sequence[Item]:
        """One network after the other, ResNet-18 also with recompute."""
        items = [Item(name, partial(measured, case, plan)) for name, case in CASES.items()]
        return [*items, Item("ResNet-18, recompute", partial(measured, CASES["ResNet-18"], plan, recompute=True))]

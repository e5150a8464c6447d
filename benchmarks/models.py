"""What is measured: networks, batches and goals, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from benchmarks.architectures import GPT, ResNet, SkipMLP, Unrolled, resnet50
from benchmarks.methods import LITERAL, SYNCHRONOUS, Method
from worldsheet.problem import Chain
from worldsheet_lab.networks import Blueprint, cnn, mlp
from worldsheet_lab.streams import drawing, seed_of

NETWORKS = "networks"
DEPTH = "depth"
CALLS = "calls"
MEMORY_GOAL = 1.10

_CLASSES = 10
_BATCH = 64
_TANH_MLP_GOAL = 1.25
_CNN_GOAL = 1.10
_NARROW_GOAL = 1.50


@final
@dataclass(frozen=True)
class Case:
    """One network and how it is measured.

    Attributes:
        name: how it is called in tables and files.
        make: builds the network; every child of a Sequential is a site, other modules have the sites of their forward.
        shape: of one input.
        goal: the time ratio to autograd that is aimed at; None for none.
        group: the table it is in.
        repeats: rounds of autograd and wavefront.
        slow: methods that cost a multiple of autograd, measured in a few rounds of their own.
        slow_repeats: how many rounds that is.
        full_batch: batch size.
        quick_batch: batch size of a quick run.
        fidelity: whether gradients are compared with those in float64.
        tokens: how many kinds of token the inputs and labels are drawn from, one label for each; 0 for normal inputs
            with one label each.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    goal: float | None = _TANH_MLP_GOAL
    repeats: int = 200
    group: str = NETWORKS
    slow: tuple[Method, ...] = (SYNCHRONOUS, LITERAL)
    slow_repeats: int = 5
    full_batch: int = _BATCH
    quick_batch: int = _BATCH
    fidelity: bool = False
    tokens: int = 0

    def batch(self, quick: bool) -> int:
        """Inputs per gradient."""
        return min(self.quick_batch, self.full_batch) if quick else self.full_batch


class Instance(NamedTuple):
    """A network with a batch to make gradients of: the arguments of a `Gradient`."""

    chain: Chain
    x: Tensor
    target: Tensor

    @property
    def module(self) -> nn.Module:
        """The network."""
        module = self.chain.module
        return module if isinstance(module, nn.Module) else nn.ModuleList(module)


def instance(case: Case, batch: int, seed: int, device: torch.device) -> Instance:
    """The case's network with weights, inputs and labels that the seed decides; the inputs are standard normal."""
    with drawing(seed_of(seed, case.name), torch.device("cpu")):
        module = case.make()
        x, target = _data(case, batch)
    loss = next_token if case.tokens else nn.CrossEntropyLoss()
    return Instance(Chain(module.to(device), loss), x.to(device), target.to(device))


def next_token(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, averaged over batch and positions."""
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def _data(case: Case, batch: int) -> tuple[Tensor, Tensor]:
    if not case.tokens:
        return torch.randn(batch, *case.shape), torch.randint(_CLASSES, (batch,))
    x, target = (torch.randint(case.tokens, (batch, *case.shape)) for _ in range(2))
    return x, target


def tanh_mlp(size: int, width: int, depth: int) -> nn.Sequential:
    """A site is a linear layer with its tanh; the last one is linear with ten outputs."""
    return mlp(Blueprint((1, 1, size), _CLASSES, depth, width, "tanh", 0.0))


def vgg9() -> nn.Sequential:
    """A VGG of nine weight layers for images of 32 x 32: 64 64 M 128 128 M 256 256 M 256 256 M, then 10 outputs.

    A site is a 3 x 3 convolution with batch norm, ReLU and the halving M if one follows; the last one is linear.
    """
    return cnn(Blueprint((3, 32, 32), _CLASSES, 9, 64, "relu", 0.0))


def _narrow(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], batch: int) -> Case:
    """A network of many small sites in a forward of its own, where bookkeeping shows."""
    return Case(name, make, shape, goal=_NARROW_GOAL, repeats=60, slow=(), full_batch=batch)


def _unrolled(steps: int) -> Case:
    return replace(_narrow(f"lstm-{steps}", partial(Unrolled, 16, 32, _CLASSES), (steps, 16), 8), repeats=6000 // steps)


def _uniform(name: str, depth: int) -> Case:
    return Case(name, partial(tanh_mlp, 128, 128, depth), (1, 1, 128))


def _of_depth(depth: int) -> Case:
    # Synchronously the cost grows with the square of the depth; 32 layers show it.
    slow = (SYNCHRONOUS,) if depth <= 32 else ()
    case = _uniform(f"depth-{depth}", depth)
    return replace(case, group=DEPTH, goal=None, repeats=60, slow=slow, slow_repeats=3)


_NETWORKS = (
    Case("mlp-784", partial(tanh_mlp, 784, 300, 4), (1, 1, 784)),
    _uniform("w128-l10", 10),
    replace(_uniform("w128-l30", 30), repeats=100, slow_repeats=3, fidelity=True),
    Case("resnet18", ResNet, (3, 32, 32), goal=_CNN_GOAL, repeats=8, slow=(), quick_batch=4),
    Case("resnet50", resnet50, (3, 32, 32), goal=_CNN_GOAL, repeats=4, slow=(), full_batch=16, quick_batch=2),
    Case("gpt-small", GPT, (64,), goal=_CNN_GOAL, repeats=20, slow=(), quick_batch=4, tokens=65),
    Case("cnn-vgg9", vgg9, (3, 32, 32), goal=_CNN_GOAL, repeats=12, slow_repeats=1, quick_batch=4),
)

_PROGRAMS = (
    Case(
        "gpt-12x256",
        partial(GPT, 512, 128, 256, 12, 8),
        (128,),
        goal=_CNN_GOAL,
        repeats=12,
        slow=(),
        full_batch=2,
        tokens=512,
    ),
    _unrolled(100),
    _unrolled(200),
    _narrow("skip-100", partial(SkipMLP, 64, 100, _CLASSES), (64,), 64),
)

CASES: Mapping[str, tuple[Case, ...]] = {
    **{case.name: (case,) for case in (*_NETWORKS, *_PROGRAMS)},
    CALLS: tuple(replace(_unrolled(steps), group=CALLS, goal=None) for steps in (250, 500, 1000, 2000)),
    DEPTH: tuple(_of_depth(depth) for depth in (4, 8, 16, 32, 64, 128)),
}
"""What `--case` can name; cost against depth, and against the number of calls, is one name for several networks."""

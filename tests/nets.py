"""Networks for tests: random ones drawn by hypothesis, small fixed ones, and autograd's answer for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.cut import Replayed

DOUBLE = torch.float64

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def law(examples: int) -> settings:
    """The same examples at every run, and no clock."""
    quiet = (HealthCheck.too_slow, HealthCheck.data_too_large)
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=quiet)


class Residual(nn.Module):
    """x + f(x), a skip connection inside one site."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.3))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.weight * (output - target).square().mean() + self.weight.square()


@dataclass(frozen=True)
class Net:
    """A chain with data for it."""

    module: nn.Sequential
    loss: Callable[[Any, Any], Tensor]
    x: Tensor
    target: Tensor
    flatten: bool = False

    @cached_property
    def chain(self) -> ws.Chain:
        return ws.Chain(self.module, self.loss, flatten=self.flatten)


def autograd(module: nn.Module, loss: Callable[[Any, Any], Tensor], x: Tensor, target: Any) -> dict[str, Tensor]:
    """End-to-end gradients by parameter name; those of the loss under `loss.`, the input's under `input`."""
    named: dict[str, Tensor] = dict(module.named_parameters())
    if isinstance(loss, nn.Module):
        named |= {f"loss.{name}": parameter for name, parameter in loss.named_parameters()}
    if x.requires_grad:
        named["input"] = x
    wanted = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    if not wanted:
        return {}
    output = loss(module(x), target)
    found: Sequence[Tensor | None] = torch.autograd.grad(output, list(wanted.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(wanted, found, strict=True) if gradient is not None}


def exact(net: Net) -> dict[str, Tensor]:
    """Autograd's gradients of a net."""
    return autograd(net.module, net.loss, net.x, net.target)


def assert_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor], tol: float = 1e-10) -> None:
    """Every tensor within `tol` of the other's norm; one that vanishes may differ by rounding of the largest."""
    assert found.keys() == wanted.keys()
    rounding = 1e-15 * max((float(g.norm()) for g in wanted.values()), default=0.0)
    for name, gradient in wanted.items():
        error, size = float((found[name] - gradient).norm()), float(gradient.norm())
        assert error <= tol * size + rounding, f"{name}: error {error:.1e} of {size:.1e}"


def grad(leaf: Tensor) -> Tensor:
    """The `.grad` of a leaf that has one."""
    assert leaf.grad is not None
    return leaf.grad


def grads(owner: nn.Module | ws.Chain) -> dict[str, Tensor]:
    """The `.grad` of every parameter by its name; all have one."""
    return {name: grad(parameter) for name, parameter in owner.named_parameters()}


def laid_out(module: AnyModule, memory_format: torch.memory_format) -> AnyModule:
    """`module.to(memory_format=...)`, an argument that torch's annotations leave out."""
    to: Any = module.to
    to(memory_format=memory_format)
    return module


def only(gradients: Any) -> Any:
    """The one gradient that a hook of a module is given; for torch it may be a tuple or a tensor."""
    (gradient,) = gradients
    return gradient


def topology_of(sol: ws.Solution) -> ws.extend.Topology:
    """Which sites a relaxation found in a module of any kind."""
    assert isinstance(sol.problem, Replayed)
    return sol.problem.topology


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest relative error of any gradient."""
    return max(float((found[name] - gradient).norm() / gradient.norm()) for name, gradient in wanted.items())


def assert_tells(error: ws.WorldsheetError, *fragments: str) -> None:
    """All three parts are there, and each fragment is in the text."""
    assert error.problem
    assert error.accepted
    assert error.remedy
    text = str(error)
    assert text == f"{error.problem}\n  accepted: {error.accepted}\n  remedy: {error.remedy}"
    for fragment in fragments:
        assert fragment in text


def random_fields(like: ws.Fields, seed: int, scale: float = 1.0) -> ws.Fields:
    """Fields of the same shapes with x̂ ≠ ẑ and nothing right about them."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(scale * torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors)

    return ws.Fields(noise(like.states), noise(like.costates))


def stack(depth: int, width: int = 4, activation: type[nn.Module] = nn.Tanh, *, bias: bool = True) -> nn.Sequential:
    """`depth` linear layers with activations inside the same sites: every site is generic."""
    sites = [nn.Sequential(nn.Linear(width, width, bias=bias), activation()) for _ in range(depth - 1)]
    return nn.Sequential(*sites, nn.Linear(width, width, bias=bias)).to(DOUBLE)


def regression(module: nn.Sequential, width: int = 4, batch: int = 3, seed: int = 0) -> Net:
    """A module from `width` to `width` features with random data and squared error."""
    generator = torch.Generator().manual_seed(seed)
    x, target = (torch.randn(batch, width, dtype=DOUBLE, generator=generator) for _ in range(2))
    return Net(module, nn.MSELoss(), x, target)


def tanh_net(depth: int, width: int = 4, seed: int = 0) -> Net:
    """A regression on `stack`, with weights from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return regression(stack(depth, width), width, seed=seed)


# Random chains: a trunk of convolutions or none, then dense layers.

_ACTIVATIONS = [nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid]


@st.composite
def _dense(draw: st.DrawFn, depth: int, width: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        kind = draw(st.sampled_from(["linear", "activation", "norm", "residual"]))
        if kind == "linear":
            wide = draw(st.integers(1, 8))
            layers.append(nn.Linear(width, wide, bias=draw(st.booleans())))
            width = wide
        elif kind == "activation":
            layers.append(draw(st.sampled_from(_ACTIVATIONS))())
        elif kind == "norm":
            layers.append(nn.LayerNorm(width))
        else:
            layers.append(Residual(nn.Linear(width, width), draw(st.sampled_from(_ACTIVATIONS))()))
    return layers, width


@st.composite
def _trunk(draw: st.DrawFn, conv: type[nn.Module], depth: int, channels: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        kind = draw(st.sampled_from(["conv", "activation", "residual"]))
        if kind == "conv":
            wide = draw(st.integers(1, 4))
            layers.append(conv(channels, wide, 3, padding=1))
            channels = wide
        elif kind == "activation":
            layers.append(draw(st.sampled_from(_ACTIVATIONS))())
        else:
            layers.append(Residual(conv(channels, channels, 1), nn.Tanh()))
    return [*layers, nn.Flatten()], channels


@st.composite
def _grouped(draw: st.DrawFn, layers: list[nn.Module]) -> nn.Sequential:
    """Some neighbours joined in nested Sequentials."""
    sites: list[nn.Module] = []
    rest = list(layers)
    while rest:
        size = draw(st.sampled_from([1, 1, 1, 2, 3]))
        block, rest = rest[:size], rest[size:]
        sites.append(block[0] if len(block) == 1 else nn.Sequential(*block))
    return nn.Sequential(*sites)


@st.composite
def nets(draw: st.DrawFn, max_depth: int = 12) -> Net:
    """A random chain in float64 with random data and one of five losses."""
    seed, batch = draw(st.integers(0, 2**20)), draw(st.integers(1, 5))
    depth = draw(st.integers(1, max_depth))
    shape = draw(st.sampled_from([(), (), (5,), (3, 4)]))
    width = draw(st.integers(1, 8)) if not shape else draw(st.integers(1, 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head: list[nn.Module] = []
        x = torch.randn(batch, width, *shape, dtype=DOUBLE)
        if shape:
            conv = nn.Conv1d if len(shape) == 1 else nn.Conv2d
            head, channels = draw(_trunk(conv, draw(st.integers(1, max(1, depth - 1))), width))
            width = channels * torch.Size(shape).numel()
        body, width = draw(_dense(max(1, depth - len(head)), width))
        module = draw(_grouped([*head, *body])).to(DOUBLE)
        loss = draw(st.sampled_from(["mean", "sum", "classes", "lambda", "module"]))
        target = torch.randn(batch, width, dtype=DOUBLE)
        if loss == "classes":
            target = torch.randint(width, (batch,))
    functions: dict[str, Callable[[Any, Any], Tensor]] = {
        "mean": nn.MSELoss(),
        "sum": nn.MSELoss(reduction="sum"),
        "classes": nn.CrossEntropyLoss(),
        "lambda": lambda output, wanted: (output - wanted).abs().pow(1.5).sum() / len(output),
        "module": Weighted().to(DOUBLE),
    }
    return Net(module, functions[loss], x, target, flatten=draw(st.booleans()))


@st.composite
def schedules(draw: st.DrawFn) -> ws.schedules.Schedule:
    """Any schedule under which unit rate is exact."""
    kind = draw(st.sampled_from(["synchronous", "wavefront", "sweep", "asynchronous"]))
    if kind == "asynchronous":
        return asynchronous(draw(st.integers(0, 2**20)), draw(st.integers(0, 4)))
    return {
        "synchronous": ws.Synchronous(),
        "wavefront": ws.Wavefront(),
        "sweep": ws.Sweep(),
    }[kind]


def asynchronous(seed: int, max_delay: int) -> ws.Asynchronous:
    """Random order and delays from a seed."""
    return ws.Asynchronous(torch.Generator().manual_seed(seed), max_delay)


Order = Callable[[], ws.schedules.Schedule]

ORDERS: dict[str, Order] = {
    "wavefront": ws.Wavefront,
    "sweep": ws.Sweep,
    "synchronous": ws.Synchronous,
    "asynchronous": lambda: asynchronous(0, 2),
}

every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
"""A test's argument `order` makes each schedule anew, with its generator at the start."""

"""Programs of the kinds that people write, each against its twin under `loss.backward()`: right, or the test fails.

Unless a test says otherwise the model is trained three times, by `backward`, by `backward` with recomputation and by a
relaxation that is accumulated, each with the default sites and with a site for every submodule.
"""

import copy
import pickle
import subprocess
import sys
import threading
import types
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import worldsheet as ws
from nets import DOUBLE, AnyModule, assert_gradients, grad, grads, only

Loss = Callable[[Any, Any], Tensor]

MSE = nn.MSELoss()


def everywhere(part: nn.Module) -> bool:
    """Makes a site of every submodule."""
    return True


def plainly(module: nn.Module, loss: Loss, x: Any, target: Any, blocks: Any) -> Tensor:
    args, kwargs = ((), x) if isinstance(x, dict) else (x, {}) if isinstance(x, tuple) else ((x,), {})
    value = loss(module(*args, **kwargs), target)
    value.backward()
    return value.detach()


def by_sites(module: nn.Module, loss: Loss, x: Any, target: Any, blocks: Any) -> Tensor:
    return ws.backward(ws.Chain(module, loss, blocks=blocks), x, target)


def recomputed(module: nn.Module, loss: Loss, x: Any, target: Any, blocks: Any) -> Tensor:
    return ws.backward(ws.Chain(module, loss, blocks=blocks), x, target, recompute=True)


def relaxed(module: nn.Module, loss: Loss, x: Any, target: Any, blocks: Any) -> Tensor:
    sol = ws.relax(ws.Chain(module, loss, blocks=blocks), x, target, schedule=ws.Synchronous())
    sol.accumulate()
    for leaf, gradient in zip(pytree.tree_leaves(x), pytree.tree_leaves(sol.input_gradient), strict=True):
        if gradient is not None:
            leaf.grad = gradient
    return sol.loss


def by_wavefront(module: nn.Module, loss: Loss, x: Any, target: Any, blocks: Any) -> Tensor:
    sol = ws.relax(ws.Chain(module, loss, blocks=blocks), x, target)
    sol.accumulate()
    return sol.loss


Way = Callable[[nn.Module, Loss, Any, Any, Any], Tensor]
BACKWARD: tuple[Way, ...] = (by_sites, recomputed)
WAYS: tuple[Way, ...] = (*BACKWARD, relaxed)


class Left(NamedTuple):
    """What training leaves behind."""

    loss: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    generators: tuple[Any, ...]


def left(module: nn.Module, loss: Tensor, data: Any) -> Left:
    leaves = {f"data {k}": leaf for k, leaf in enumerate(pytree.tree_leaves(data)) if isinstance(leaf, Tensor)}
    named = dict(module.named_parameters()) | leaves
    state = np.random.get_state(legacy=False)["state"]
    generators = (torch.get_rng_state().tolist(), state["key"].tolist(), state["pos"])
    filled = {name: leaf.grad.clone() for name, leaf in named.items() if leaf.is_leaf and leaf.grad is not None}
    return Left(loss, filled, {name: b.clone() for name, b in module.named_buffers()}, generators)


def assert_left(found: Left, wanted: Left) -> None:
    assert found.generators == wanted.generators
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-12, atol=1e-14)
    assert_gradients(found.gradients, wanted.gradients)
    assert found.buffers.keys() == wanted.buffers.keys()
    for name, buffer in wanted.buffers.items():
        torch.testing.assert_close(found.buffers[name], buffer, rtol=1e-12, atol=1e-14)


def seed() -> None:
    torch.manual_seed(7)
    np.random.seed(7)


def assert_alike(
    module: nn.Module,
    x: Any,
    target: Any = None,
    loss: Callable[..., Any] = MSE,
    *,
    of_module: bool = False,
    ways: tuple[Way, ...] = WAYS,
    choices: tuple[Any, ...] = (None, everywhere),
) -> None:
    """Train copies of a model, each in its own way and twice, and compare all that is left behind after each time.

    Args:
        module: the model.
        x: its input.
        target: for the loss.
        loss: the loss, or what makes it from the model.
        of_module: whether it is made from the model.
        ways: how the copies are trained.
        choices: of sites.
    """
    runs = [(plainly, None), *((way, blocks) for blocks in choices for way in ways)]
    answers = []
    for way, blocks in runs:
        mine, own, wanted = copy.deepcopy((module, x, target))
        own_loss = loss(mine) if of_module else loss
        seed()
        trained = []
        for _ in range(2):
            value = way(mine, own_loss, own, wanted, blocks)
            trained.append(left(mine, value, (own, wanted)))
            for leaf in [*mine.parameters(), *pytree.tree_leaves((own, wanted))]:
                if isinstance(leaf, Tensor) and leaf.is_leaf:
                    leaf.grad = None
        answers.append(trained)
    for found in answers[1:]:
        for theirs, autograds in zip(found, answers[0], strict=True):
            assert_left(theirs, autograds)


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


class Pair(nn.Module):
    """Two linear layers; what happens between them is what its descendants are about."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))

    def between(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


def pair_and_data(make: type[AnyModule]) -> tuple[AnyModule, Tensor, Tensor]:
    return make(), data(6, 4), data(6, 3)


# Regions without gradients and operations with derivatives of their own.


class Frozen(Pair):
    """Features of a part that is not trained, and a part below it that must get nothing."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.tanh(self.a(x))
        return self.b(h)


class Detached(Pair):
    """Half of the way is cut by hand, and so is the input of a loss term."""

    def between(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            scale = 1 + self.b.weight.norm()
        return torch.tanh(h) / scale + h.detach() * h.sigmoid()


class Switched(Pair):
    """Gradients off outside, on again inside."""

    @torch.no_grad()
    def norm(self, h: Tensor) -> Tensor:
        return h.norm()

    def between(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            size = self.norm(h)
            with torch.enable_grad():
                return torch.tanh(h) / size


@pytest.mark.parametrize("make", [Frozen, Detached, Switched])
def test_regions_without_gradients_stay_without(make: type[nn.Module]) -> None:
    module, x, target = pair_and_data(make)
    assert_alike(module, x, target)
    module.a.requires_grad_(False)
    assert_alike(module, x, target)


def test_a_part_that_is_run_without_gradients_gets_none() -> None:
    module, x, target = pair_and_data(Frozen)
    ws.backward(ws.Chain(module, MSE, blocks=everywhere), x, target)
    assert module.a.weight.grad is None
    assert module.b.weight.grad is not None


class StraightThrough(torch.autograd.Function):
    """A sign whose derivative is taken to be one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Reversal(torch.autograd.Function):
    """Nothing upwards, and the opposite of the gradient, scaled, downwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


class Surrogate(torch.autograd.Function):
    """A spike with a soft derivative; two results, of which one has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        count = (x > 0).long()
        ctx.mark_non_differentiable(count)
        return (x > 0).to(x.dtype), count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (1 + x.abs()) ** 2


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return StraightThrough.apply(x)


class Reverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Reversal.apply(x, 0.3)


class Spike(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        spikes, count = Surrogate.apply(x)
        return spikes + count


class Between(Pair):
    """With an operation between the layers, outside of all submodules or in one."""

    def __init__(self, operation: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def between(self, h: Tensor) -> Tensor:
        return self.operation(h)


@pytest.mark.parametrize("make", [Sign, Reverse, Spike])
@pytest.mark.parametrize("inside", [True, False], ids=["in a module", "in the root"])
def test_functions_with_a_backward_of_their_own(make: type[nn.Module], inside: bool) -> None:
    module = Between(make() if inside else make().forward)
    assert_alike(module, data(6, 4), data(6, 3))


SCALARS: dict[str, Callable[[Tensor], Tensor]] = {
    "pow": lambda h: torch.pow(h, 3.0),
    "a number to a power": lambda h: torch.pow(2.0, h),
    "where": lambda h: torch.where(h > 0, h, 0.0),
    "where, both": lambda h: torch.where(h > 0, 1.0, 0.0) * h,
    "remainder": lambda h: torch.remainder(h, 0.7),
    "float_power": lambda h: torch.float_power(h, 2),
    "xlogy": lambda h: torch.xlogy(h.abs(), 2.0),
    "result_type": lambda h: h.to(torch.result_type(h, 1.0)) * 2,
    "vmap": torch.vmap(lambda row: row * row.sum()),
    "clamp": lambda h: torch.clamp(h, -0.3, 0.4),
    "rsub": lambda h: torch.rsub(h, 1.0),
    "maximum with a number": lambda h: torch.maximum(h, torch.tensor(0.1, dtype=h.dtype)),
    "add with a factor": lambda h: torch.add(h, h.exp(), alpha=-0.5),
    "masked_fill": lambda h: h.masked_fill(h < 0, -1.0),
    "einsum": lambda h: torch.einsum("bi,bj->bi", h, h),
    "a scalar tensor of another dtype": lambda h: h * torch.tensor(2) + torch.tensor(0.5, dtype=torch.float32),
}


@pytest.mark.parametrize("name", SCALARS)
def test_operations_with_numbers(name: str) -> None:
    assert_alike(Between(SCALARS[name]), data(6, 4), data(6, 3))


class Hyper(nn.Module):
    """One network makes the weights of another, whose own are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper, self.net, self.head = nn.Linear(4, 20), nn.Linear(4, 5, bias=False), nn.Linear(5, 3)
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.hyper(x.mean(0)).view(5, 4)
        return self.head(torch.func.functional_call(self.net, {"weight": weight}, (x,)).tanh())


def test_weights_that_another_network_makes() -> None:
    module, x, target = pair_and_data(Hyper)
    assert_alike(module, x, target)
    ws.backward(ws.Chain(module, MSE), x, target)
    assert module.net.weight.grad is None


def test_a_step_of_training_inside_of_the_forward() -> None:
    class Adapting(Pair):
        """The inner gradient is taken inside of one site, on the way to its result."""

        def forward(self, x: Tensor) -> Tensor:
            inner = F.mse_loss(F.linear(x, self.a.weight, self.a.bias), torch.ones(6, 5, dtype=x.dtype))
            (slope,) = torch.autograd.grad(inner, self.a.weight, create_graph=True)
            return self.b(torch.tanh(F.linear(x, self.a.weight - 0.1 * slope, self.a.bias)))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Adapting(), nn.Linear(3, 3, dtype=DOUBLE)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x))

    module, x, target = pair_and_data(Adapting)
    assert_alike(module, x, target)
    assert_alike(Outer(), x, target, ways=(by_sites, relaxed), choices=(None,))


class Stopped(nn.Module):
    """Values that are read without derivatives, one after the other: what a state is depends on more than derivatives
    tell, so that a relaxation takes longer to settle than their graph is deep."""

    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.lines = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.read = read
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        for line in self.lines[:-1]:
            x = torch.tanh(line(torch.ones_like(x) * self.read(x)))
        return self.lines[-1](x)


STOPS: dict[str, Callable[[Tensor], Any]] = {
    "detach": lambda h: h.detach(),
    "item": lambda h: h.detach().mean().item(),
    "data": lambda h: h.data,
    "numpy": lambda h: torch.from_numpy(h.detach().numpy() * 2),
    "integers": lambda h: h.argmax(-1, keepdim=True),
    "comparison": lambda h: (h > 0).to(h.dtype),
}


@pytest.mark.parametrize("name", STOPS)
def test_values_that_are_read_without_derivatives(name: str) -> None:
    assert_alike(Stopped(STOPS[name]), data(6, 4), data(6, 4))


def test_what_a_part_without_gradients_computes_from_states() -> None:
    class Teaching(Pair):
        """A teacher looks at a layer's result; its own is what the next layer reads."""

        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()

        def between(self, h: Tensor) -> Tensor:
            with torch.no_grad():
                return self.teacher(h)

    assert_alike(*pair_and_data(Teaching))


class Force(nn.Module):
    """The derivative of an energy by a point that is cut from the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, h: Tensor) -> Tensor:
        point = h.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(point).sum(), point, create_graph=True)
        return slope


class Descent(Force):
    """A step down an energy, from what it is given."""

    def forward(self, h: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(self.energy(h).sum(), h, create_graph=True)
        return h - 0.3 * slope


@pytest.mark.parametrize("make", [Force, Descent])
def test_sites_that_differentiate_inside(make: type[nn.Module]) -> None:
    assert_alike(Between(make()).double(), data(6, 4), data(6, 3), choices=("operation",))


@pytest.mark.parametrize("make", [Force, Descent])
def test_sites_that_differentiate_by_states_they_read(make: type[nn.Module]) -> None:
    assert_alike(Between(make()).double(), data(6, 4), data(6, 3), choices=(None, ("a", "operation", "b")))


# Losses that read more than the output.


def l2(module: nn.Module) -> Loss:
    return lambda output, target: MSE(output, target) + 0.1 * sum(p.square().sum() for p in module.parameters())


class Task(nn.Module):
    """A model with a loss among its methods, which has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3, dtype=DOUBLE)
        self.log_var = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.net(x))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return MSE(output, target) * torch.exp(-self.log_var) + self.log_var


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(DOUBLE)


@pytest.mark.parametrize("make", [sequential, Pair])
def test_losses_that_read_parameters(make: Callable[[], nn.Module]) -> None:
    assert_alike(make(), data(6, 4), data(6, 3), l2, of_module=True)


def test_losses_that_are_methods_of_the_model() -> None:
    module, x, target = pair_and_data(Task)
    assert_alike(module, x, target, lambda own: own.loss, of_module=True)
    module.net.requires_grad_(False)
    assert_alike(module, x, target, lambda own: own.loss, of_module=True, ways=BACKWARD)


@pytest.mark.parametrize("make", [sequential, Pair])
def test_targets_that_require_grad(make: Callable[[], nn.Module]) -> None:
    assert_alike(make(), data(6, 4), data(6, 3).requires_grad_())
    assert_alike(make(), data(6, 4).requires_grad_(), data(6, 3).requires_grad_())


@pytest.mark.parametrize("make", [sequential, Pair])
def test_losses_that_close_over_tensors_of_their_own(make: Callable[[], nn.Module]) -> None:
    temperature = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return MSE(output * temperature.exp(), target) + temperature.square()

    found: list[Tensor | None] = []
    for way in (plainly, *WAYS):
        temperature.grad = None
        torch.manual_seed(0)
        way(make(), loss, data(6, 4), data(6, 3), None)
        found.append(temperature.grad)
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-12, atol=0)


class Balanced(Pair):
    """Leaves a term of the loss behind, and a list of features."""

    aux: Tensor
    features: list[Tensor]

    def between(self, h: Tensor) -> Tensor:
        h = torch.tanh(h)
        self.aux = h.square().mean()
        self.features = [h, h.exp()]
        return h


class Nested(nn.Module):
    """The same, one level below."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = Balanced(), nn.Linear(3, 3, dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


def with_leftovers(module: nn.Module) -> Loss:
    holder = module.layer if isinstance(module, Nested) else module
    assert isinstance(holder, Balanced)
    return lambda output, target: MSE(output, target) + holder.aux + sum(f.abs().mean() for f in holder.features)


@pytest.mark.parametrize("make", [Balanced, Nested])
def test_loss_terms_that_a_forward_leaves_behind(make: Callable[[], nn.Module]) -> None:
    assert_alike(make(), data(6, 4), data(6, 3), with_leftovers, of_module=True)


def below_others() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Balanced(), nn.Tanh(), nn.Linear(3, 3)).to(DOUBLE)


def test_loss_terms_that_a_layer_of_a_sequential_leaves_behind() -> None:
    module = below_others()
    assert_alike(
        module, data(6, 4), data(6, 3), lambda own: with_leftovers(own[2]), of_module=True, choices=(everywhere, "*")
    )


def catching(module: nn.Module) -> Loss:
    """Features are what hooks on submodules have caught."""
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            caught[name] = output

        return hook

    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(catch(name))
    return lambda output, target: MSE(output, target) + sum(h.square().mean() for h in caught.values())


@pytest.mark.parametrize("make", [Pair, Nested])
def test_features_that_hooks_catch(make: Callable[[], nn.Module]) -> None:
    assert_alike(make(), data(6, 4), data(6, 3), catching, of_module=True)


def test_features_that_hooks_catch_on_a_sequential() -> None:
    assert_alike(sequential(), data(6, 4), data(6, 3), catching, of_module=True, choices=(everywhere, nn.Linear))


# Python that changes between two calls, or is drawn anew.


class Stateful(Pair):
    """Reads Python state of every kind."""

    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.items, self.table = (1.0, 0.0), [1.0], {"s": 1.0}
        self.config = types.SimpleNamespace(s=1.0)
        self.plain = torch.tensor(1.0, dtype=DOUBLE)
        self.act = torch.tanh
        self.flag = True

    def between(self, h: Tensor) -> Tensor:
        h = self.act(h) * self.pair[0] * self.items[0] * self.table["s"] * self.config.s * self.plain
        return h * type(self).gain if self.flag else h + 1


CHANGES: dict[str, Callable[[Stateful], Any]] = {
    "tuple": lambda m: setattr(m, "pair", (3.0, 0.0)),
    "list": lambda m: m.items.__setitem__(0, 3.0),
    "dict": lambda m: m.table.update(s=3.0),
    "config": lambda m: setattr(m.config, "s", 3.0),
    "tensor": lambda m: setattr(m, "plain", torch.tensor(3.0, dtype=DOUBLE)),
    "tensor in place": lambda m: m.plain.fill_(3.0),
    "function": lambda m: setattr(m, "act", torch.sigmoid),
    "flag": lambda m: setattr(m, "flag", False),
    "class attribute": lambda m: setattr(type(m), "gain", 3.0),
    "method": lambda m: setattr(m, "between", torch.exp),
}


@pytest.mark.parametrize("name", CHANGES)
def test_python_state_that_changes_later(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stateful, "gain", 1.0)
    module, x, target = pair_and_data(Stateful)
    chains = [ws.Chain(module, MSE), ws.Chain(module, MSE, blocks=everywhere)]
    for chain in chains:
        ws.backward(chain, x, target)
    before = {name: gradient.clone() for name, gradient in grads(module).items()}
    CHANGES[name](module)
    twin = copy.deepcopy(module)
    twin.zero_grad()
    value = MSE(twin(x), target)
    value.backward()
    wanted = grads(twin)
    assert not torch.allclose(wanted["a.weight"], before["a.weight"])
    for chain in chains:
        module.zero_grad()
        torch.testing.assert_close(ws.backward(chain, x, target), value.detach(), rtol=1e-12, atol=0)
        assert_gradients(grads(module), wanted)
        assert_gradients(ws.relax(chain, x, target, schedule=ws.Synchronous()).gradients(), wanted)


class Drawing(Pair):
    """Draws from torch and numpy; a draw decides which sites there are."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Linear(5, 5, dtype=DOUBLE)

    def between(self, h: Tensor) -> Tensor:
        h = F.dropout(h, 0.3, self.training) * np.random.rand() + np.random.rand() * torch.rand(())
        return self.skip(h).tanh() + h if np.random.rand() < 0.5 else h


def test_numbers_that_are_drawn_are_drawn_anew_each_time() -> None:
    module, x, target = pair_and_data(Drawing)
    assert_alike(module, x, target)
    twin, chain = copy.deepcopy(module), ws.Chain(module, MSE)
    answers = []
    for own, train in (
        (twin, lambda: plainly(twin, MSE, x, target, None)),
        (module, lambda: ws.backward(chain, x, target)),
    ):
        seed()
        trained = []
        for _ in range(8):  # both branches are taken
            own.zero_grad()
            trained.append(left(own, train(), None))
        answers.append(trained)
    wanted, found = answers
    for mine, other in zip(found, wanted, strict=True):
        assert_left(mine, other)
    assert len({float(answer.loss) for answer in wanted}) == 8
    assert {"skip.weight" in answer.gradients for answer in wanted} == {True, False}


PYTHONS = """
import copy, random, torch, worldsheet as ws
from torch import nn

class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.skip, self.b = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.a(x) * random.random()
        h = self.skip(h).tanh() + h * random.gauss(0, 1) if random.random() < 0.5 else h
        order = [0, 1, 2]
        random.shuffle(order)
        return self.b(h)[:, order]

def backward(module, blocks, **options):
    chain = ws.Chain(module, nn.MSELoss(), blocks=blocks)
    return lambda: ws.backward(chain, x, target, **options)

def relax(module, blocks):
    chain = ws.Chain(module, nn.MSELoss(), blocks=blocks)
    def train():
        sol = ws.relax(chain, x, target, schedule=ws.Synchronous())
        sol.accumulate()
        return sol.loss
    return train

def plainly(module, blocks):
    def train():
        loss = nn.MSELoss()(module(x), target)
        loss.backward()
        return loss.detach()
    return train

torch.manual_seed(0)
plain, x, target = Drawing().double(), torch.randn(6, 4).double(), torch.randn(6, 3).double()
answers = []
for make, options in ((plainly, {}), (backward, {}), (backward, {"recompute": True}), (relax, {})):
    for blocks in (None, lambda part: True):
        module = copy.deepcopy(plain)
        train = make(module, blocks, **options)
        random.seed(7)
        trained = []
        for _ in range(6):
            module.zero_grad()
            loss = train()
            trained.append((loss, [p.grad for p in module.parameters()], random.getstate()))
        answers.append(trained)
for found in answers[1:]:
    for (loss, gradients, state), (wanted, others, other_state) in zip(found, answers[0]):
        assert state == other_state, "the generator"
        assert torch.allclose(loss, wanted, rtol=1e-12), "the loss"
        for mine, other in zip(gradients, others):
            assert (mine is None) == (other is None), "a gradient that is there or not"
            assert mine is None or torch.allclose(mine, other, rtol=1e-10, atol=1e-14), "a gradient"
assert len({float(loss) for loss, _, _ in answers[0]}) == 6
print("same")
"""


def test_numbers_that_python_draws_are_drawn_anew_each_time() -> None:
    """In an interpreter of its own: whoever checks types while tests run draws from the same generator."""
    done = subprocess.run([sys.executable, "-c", PYTHONS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr[-2000:]


class Gate(nn.Module):
    """Decides on its own result, and returns it as it is or another."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return h * 2 if h.sum() > 0 else h


class Dropping(nn.Module):
    """Masks behind a decision, from the global generator and from one of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.drop, self.head = Gate(), nn.Dropout(0.5), nn.Linear(5, 3)
        self.generator = torch.Generator().manual_seed(3)
        self.to(DOUBLE)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Dropping":  # generators cannot be copied
        made = Dropping()
        made.load_state_dict(self.state_dict())
        made.generator.set_state(self.generator.get_state())
        return made

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(5, dtype=x.dtype, generator=self.generator)
        return self.head(self.drop(self.gate(x)) + noise)


@pytest.mark.parametrize("sign", [1, -1])
def test_generators_are_where_autograd_leaves_them(sign: int) -> None:
    module, x, target = pair_and_data(Dropping)
    module.gate.a.bias.data += 3 * sign
    runs = [(plainly, None), (by_sites, None), (by_sites, everywhere), (recomputed, None), (relaxed, None)]
    if sign > 0:  # elsewhere a state goes through the gate unchanged, which makes no site of it
        runs += [(recomputed, everywhere)]
    answers = []
    for way, blocks in runs:
        own = copy.deepcopy(module)
        seed()
        trained = []
        for _ in range(3):
            own.zero_grad()
            trained.append((left(own, way(own, MSE, x, target, blocks), None), own.generator.get_state().tolist()))
        answers.append(trained)
    for found in answers[1:]:
        for (mine, own_state), (other, state) in zip(found, answers[0], strict=True):
            assert_left(mine, other)
            assert own_state == state


# Models that are changed after the chain was made.


def doubled(module: nn.Module) -> None:
    module.register_forward_hook(lambda own, inputs, output: output * 2)


def shifted(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda own, inputs: (inputs[0] + 1,))


def scaled_down(module: nn.Module) -> None:
    module.register_full_backward_pre_hook(lambda own, outputs: (only(outputs) * 3,))


def replaced(module: nn.Module) -> None:
    """By a function that calls the one of the class."""
    module.forward = lambda x: type(module).forward(module, x.sin()).exp()


def in_the_middle(module: nn.Module) -> None:
    doubled(module.get_submodule("1" if isinstance(module, nn.Sequential) else "a"))


@pytest.mark.parametrize("change", [doubled, shifted, scaled_down, replaced, in_the_middle])
@pytest.mark.parametrize("make", [Pair, sequential])
def test_hooks_and_forwards_that_are_set_later(make: Callable[[], nn.Module], change: Any) -> None:
    module, x, target = make(), data(6, 4).requires_grad_(), data(6, 3)  # or torch warns of hooks on gradients
    twin = copy.deepcopy(module)
    chains = [ws.Chain(module, MSE), ws.Chain(module, MSE, blocks=everywhere)]
    for chain in chains:
        ws.relax(chain, x, target)
        ws.backward(chain, x, target)
    change(module)
    change(twin)
    value = MSE(twin(x), target)
    value.backward()
    wanted = grads(twin)
    for chain in chains:
        module.zero_grad()
        torch.testing.assert_close(ws.backward(chain, x, target), value.detach(), rtol=1e-12, atol=0)
        assert_gradients(grads(module), wanted)
        assert_gradients(ws.relax(chain, x, target).gradients(), wanted)


def new_head(module: nn.Sequential) -> None:
    module[2] = nn.Linear(5, 3, dtype=DOUBLE)


def longer(module: nn.Sequential) -> None:
    module.append(nn.Tanh())
    module.append(nn.Linear(3, 3, dtype=DOUBLE))


def shorter(module: nn.Sequential) -> None:
    del module[1]


def other_function(module: nn.Sequential) -> None:
    module[1].forward = torch.sin


def inside(module: nn.Sequential) -> None:
    part = nn.Sequential(nn.Tanh(), nn.Linear(5, 5, dtype=DOUBLE))
    module[1] = part
    part.append(nn.Tanh())


@pytest.mark.parametrize("change", [new_head, longer, shorter, other_function, inside])
@pytest.mark.parametrize("options", [{}, {"flatten": True}, {"blocks": everywhere}], ids=["path", "flat", "sites"])
def test_sequentials_that_are_edited_later(options: dict[str, Any], change: Any) -> None:
    module, x, target = sequential(), data(6, 4), data(6, 3)
    chain = ws.Chain(module, MSE, **options)
    ws.backward(chain, x, target)
    ws.relax(chain, x, target)
    change(module)
    module.zero_grad()
    twin = copy.deepcopy(module)
    value = MSE(twin(x), target)
    value.backward()
    wanted = grads(twin)
    for run in range(2):
        sol = ws.relax(chain, x, target, schedule=ws.Synchronous() if run else None)
        assert_gradients(sol.gradients(), wanted)
    torch.testing.assert_close(ws.backward(chain, x, target), value.detach(), rtol=1e-12, atol=0)
    assert_gradients(grads(module), wanted)
    assert [name for name, _ in chain.named_parameters()] == [name for name, _ in twin.named_parameters()]


# Threads.


class Meeting(nn.Module):
    """Has another thread do something in the middle of a forward, and waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5, dtype=DOUBLE)
        self.middle = nn.Linear(5, 5, dtype=DOUBLE)
        self.last = nn.Linear(5, 3, dtype=DOUBLE)
        self.meanwhile: list[Callable[[], object]] = []

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        while self.meanwhile:
            other = threading.Thread(target=self.meanwhile.pop())
            other.start()
            other.join()
        return self.last(torch.tanh(self.middle(h)) + h)


@pytest.mark.parametrize("blocks", [None, everywhere])
def test_another_thread_that_uses_the_model_meanwhile_notices_nothing(blocks: Any) -> None:
    module, x, target = pair_and_data(Meeting)
    parameters = list(module.parameters())
    wanted = torch.autograd.grad(MSE(module(x), target), parameters)
    found: list[Any] = []

    def use() -> None:
        found.append(torch.autograd.grad(MSE(module(x), target), parameters))
        with torch.no_grad():
            found.append(module(x))

    module.meanwhile.append(use)
    ws.backward(ws.Chain(module, MSE, blocks=blocks), x, target)
    gradients, output = found
    assert all(mine.equal(other) for mine, other in zip(gradients, wanted, strict=True))
    assert output.equal(module(x))
    torch.testing.assert_close([p.grad for p in parameters], list(wanted), rtol=1e-12, atol=1e-15)
    for part in module.modules():  # whoever listened has gone
        assert not {"_call_impl", "_compiled_call_impl"} & {
            key for key, value in vars(part).items() if value is not None
        }


def test_another_thread_may_train_the_same_model_meanwhile() -> None:
    module, x, target = pair_and_data(Meeting)
    wanted = torch.autograd.grad(MSE(module(x), target), list(module.parameters()))
    chain = ws.Chain(module, MSE)
    module.meanwhile.append(lambda: ws.backward(chain, x, target))
    ws.backward(chain, x, target)
    torch.testing.assert_close(
        [p.grad for p in module.parameters()], [2 * gradient for gradient in wanted], rtol=1e-12, atol=1e-15
    )


def trained(module: nn.Module, chain: ws.Chain | None, x: Tensor, target: Tensor) -> list[float]:
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        if chain is None:
            losses.append(float(plainly(module, MSE, x, target, None)))
        else:
            losses.append(float(ws.backward(chain, x, target)))
        optimizer.step()
    return losses


def test_threads_that_train_chains_of_models_which_share_a_frozen_part() -> None:
    class Upon(nn.Module):
        def __init__(self, trunk: nn.Module) -> None:
            super().__init__()
            self.stem, self.trunk, self.head = nn.Linear(4, 4), trunk, nn.Linear(4, 3)
            self.to(DOUBLE)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.stem(x))
            return self.head(torch.tanh(self.trunk(h)) + h)

    trunk = nn.Linear(4, 4).requires_grad_(False)
    models = [Upon(trunk) for _ in range(4)]
    x, targets = data(6, 4), [data(6, 3) for _ in models]
    twins = copy.deepcopy(models)
    wanted = [trained(twin, None, x, target) for twin, target in zip(twins, targets, strict=True)]
    found: dict[int, list[float]] = {}

    def train(number: int) -> None:
        blocks = everywhere if number % 2 else None
        found[number] = trained(models[number], ws.Chain(models[number], MSE, blocks=blocks), x, targets[number])

    threads = [threading.Thread(target=train, args=(number,)) for number in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, losses in enumerate(wanted):
        torch.testing.assert_close(found[number], losses, rtol=1e-10, atol=0)


# Modules with a life of their own.


class Ema(nn.Module):
    """Puts new tensors in the place of its buffers."""

    ema: Tensor
    count: Tensor
    first: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.register_buffer("ema", torch.zeros(5))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("first", None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.ema = 0.9 * self.ema + 0.1 * h.detach().mean(0)
        self.count += 1
        if self.first is None:
            self.first = h.detach()[0].clone()
        return h - self.ema / self.count + self.first


class Made(nn.Module):
    """Makes modules in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.LayerNorm(5, dtype=x.dtype)(self.a(x))
        return nn.Sequential(nn.Softmax(-1), nn.Flatten())(h)


class Normed(nn.Module):
    """A weight that is computed, with vectors that move in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.spectral_norm(nn.Linear(4, 5))
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x))


class Below(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(5, 3)
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


@pytest.mark.parametrize("make", [Ema, Made, Normed])
def test_submodules_that_reassign_buffers_or_make_modules(make: type[nn.Module]) -> None:
    assert_alike(Below(make()), data(6, 4), data(6, 3))
    assert_alike(make().to(DOUBLE), data(6, 4), data(6, 5))


def test_losses_made_in_the_forward() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3, dtype=DOUBLE)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.a(x)
            return {"loss": nn.CrossEntropyLoss()(logits, labels), "logits": logits}

    x = {"x": data(6, 4), "labels": torch.randint(0, 3, (6,))}
    assert_alike(Masked(), x, None, lambda output, _: output["loss"])


class Asking(Pair):
    """Asks what it has been given."""

    def between(self, h: Any) -> Tensor:
        if callable(h):
            h = h * 5
        if any((type(h) is not torch.Tensor, not isinstance(h, torch.Tensor), isinstance(h, nn.Parameter))):
            h = h * 7
        if h.is_leaf or not h.requires_grad or h._is_view() or h.grad_fn is None:
            h = h * 11
        if torch.is_tensor(h) and h.is_contiguous() and h.shape == (6, 5) and h.dtype is DOUBLE:
            h = h * 0.5
        return torch.tanh(h)


def test_a_forward_that_asks_what_it_was_given() -> None:
    assert_alike(*pair_and_data(Asking))


Named = namedtuple("Named", "logits hidden")


@dataclass
class Record:
    logits: Any
    hidden: Any


class Output(OrderedDict[str, Any]):
    """A dictionary with attributes, made from keywords."""

    def __init__(self, logits: Any, hidden: Any) -> None:
        super().__init__(logits=logits, hidden=hidden)

    @property
    def logits(self) -> Any:
        return self["logits"]

    @property
    def hidden(self) -> Any:
        return self["hidden"]


class Returning(nn.Module):
    def __init__(self, kind: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.a, self.kind = nn.Linear(4, 5), kind

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.a(x))
        return self.kind(h * 2, h)


class Taking(nn.Module):
    """Reads such a result of a submodule."""

    def __init__(self, kind: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.inner, self.head, self.kind = Returning(kind), nn.Linear(5, 5), kind

    def forward(self, x: Tensor) -> Any:
        result = self.inner(x)
        return self.kind(self.head(result.logits * result.hidden), result.hidden)


@pytest.mark.parametrize("kind", [Named, Record, Output])
@pytest.mark.parametrize("make", [Returning, Taking])
def test_outputs_of_any_class(make: Any, kind: Any) -> None:
    def loss(output: Any, target: Tensor) -> Tensor:
        assert type(output) is kind
        return MSE(output.logits, target) + output.hidden.square().sum()

    assert_alike(make(kind).to(DOUBLE), data(6, 4), data(6, 5), loss)


def test_numbers_of_numpy() -> None:
    class Attending(Pair):
        def between(self, h: Tensor) -> Tensor:
            scores = h @ h.T / np.sqrt(h.size(-1))
            return scores.softmax(-1) @ h * np.float64(0.7) + np.ones((1, 5)).mean()

    assert_alike(*pair_and_data(Attending))


# Layers that are not like others.


class Routed(nn.Module):
    """Experts, each of which is called with the rows that have chosen it, if there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 5)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)) for _ in range(5))
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(chosen == number)
            if len(rows):
                out.index_add_(0, rows, expert(x[rows]) * weights[rows, slots].unsqueeze(-1))
        return out + x


def test_experts_that_are_called_if_chosen() -> None:
    for rows in (2, 6):  # with two rows one expert at least is never called
        assert_alike(Routed(), data(rows, 4), data(rows, 4), ways=(*BACKWARD, by_wavefront))


class Lookup(nn.Module):
    """Sparse gradients, of two uses of one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 4)
        self.to(DOUBLE)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(tokens))) + self.table(tokens + 1)


def test_sparse_gradients() -> None:
    assert_alike(Lookup(), torch.randint(0, 8, (6,)), data(6, 4))
    module = Lookup()
    ws.backward(ws.Chain(module, MSE), torch.randint(0, 8, (6,)), data(6, 4))
    assert grad(module.table.weight).is_sparse


class Checkpointed(nn.Module):
    """Saves memory by itself, in one of torch's ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem, self.head, self.way = nn.Linear(4, 4), nn.Linear(4, 4), way
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.4), nn.Tanh(), nn.Linear(8, 4))
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        if self.way == "elsewhere":
            with torch.autograd.graph.save_on_cpu():
                return self.head(self.inner(h) + h)
        return self.head(checkpoint(self.inner, h, use_reentrant=self.way == "reentrant") + h)


@pytest.mark.parametrize("way", ["reentrant", "by hooks", "elsewhere"])
def test_models_that_save_memory_by_themselves(way: str) -> None:
    ways = BACKWARD if way == "reentrant" else WAYS  # torch itself takes no derivatives by hand through the former
    assert_alike(Checkpointed(way), data(6, 4), data(6, 4), ways=ways)


class Echo(nn.Module):
    """Returns one tensor twice, and a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.line(x)
        return [h, h, h.view(-1), h[:, 1:]]


class Hearing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.echo, self.head = Echo(), nn.Linear(5, 3)
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        one, other, flat, part = self.echo(x)
        return self.head(one * other.exp() + flat.sin().mean()) * part.sum(1, keepdim=True)


def test_results_that_are_the_same_or_share_memory() -> None:
    assert_alike(*pair_and_data(Hearing))


class Waves(nn.Module):
    """Complex numbers between real ones, and a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 3, dtype=DOUBLE)
        self.filter = nn.Parameter(torch.randn(3, dtype=torch.complex128))
        self.there = torch.fft.fft

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.ifft(self.there(self.line(x)) * self.filter).real


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x)


def test_complex_numbers() -> None:
    module = Waves()
    assert_alike(module, data(6, 4), data(6, 3))
    del module.there
    module.there = Fourier()  # makes complex states
    assert_alike(module, data(6, 4), data(6, 3))


class Carrying(nn.Module):
    """A state that is carried from batch to batch, without its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 5), nn.Linear(5, 3)
        self.state: Tensor | None = None
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        before = None if self.state is None else self.state.detach()
        self.state = self.cell(x, before)
        return self.head(self.state)


def test_a_state_that_is_carried_from_batch_to_batch() -> None:
    module, x, target = pair_and_data(Carrying)
    chain, twin = ws.Chain(module, MSE), Carrying()
    twin.load_state_dict(module.state_dict())
    for batch in range(3):
        for own in (module, twin):
            own.zero_grad()
        wanted = plainly(twin, MSE, x + batch, target, None)
        torch.testing.assert_close(ws.backward(chain, x + batch, target), wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(module.state, twin.state, rtol=1e-12, atol=1e-14)
        assert_gradients(grads(module), grads(twin))


class Attending(nn.Module):
    """Torch's own transformer, with masks of dropout."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True)
        self.stem = nn.Linear(4, 4)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.last = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True)
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(self.stem(x))
        return self.last(h, h, h, need_weights=False)[0]


def test_torchs_own_transformer() -> None:
    assert_alike(Attending(), data(3, 5, 4), data(3, 5, 4))
    assert_alike(Attending().eval(), data(3, 5, 4), data(3, 5, 4))


class Reparametrised(nn.Module):
    """Weights that are computed, in a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Linear(4, 4))
        self.b = parametrizations.orthogonal(nn.Linear(4, 4))
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.tanh(self.b(self.a(x))))


class Cached(Reparametrised):
    """Computes them once for both calls, so that the second site reads what the first has made."""

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            return super().forward(x)


def test_weights_that_are_computed() -> None:
    assert_alike(Reparametrised(), data(6, 4), data(6, 4))
    assert_alike(Cached(), data(6, 4), data(6, 4), ways=(by_sites, relaxed))


class Island(nn.Module):
    """A part in full precision within a model in half."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 16), nn.Linear(16, 3), nn.LayerNorm(16)
        self.mix = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        with torch.autocast("cpu", enabled=False):
            h = h.float() @ self.mix
        return self.b(F.gelu(self.norm(h)) + h)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("blocks", [None, everywhere])
def test_islands_of_another_precision(blocks: Any, way: Way) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output.float() - target).square().mean()

    plain, x, target = Island(), torch.randn(6, 4), torch.randn(6, 3)
    found = []
    for each in (plainly, way):
        module = copy.deepcopy(plain)
        with torch.autocast("cpu", torch.bfloat16):
            each(module, loss, x, target, blocks)
        found.append(grads(module))
    assert all(gradient.dtype == torch.float32 for gradient in found[1].values())
    assert_gradients(found[1], found[0], tol=0.02)  # half precision rounds differently in every order of sums


# Hooks on gradients.


class Tied(nn.Module):
    """One weight at four places, one of them in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x)) + torch.sigmoid(self.a(x * 2))
        return self.b(h)


def tied_sequential() -> nn.Sequential:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()).to(DOUBLE)
    module.append(module[0])
    module[2].weight = module[0].weight
    return module


def untied_sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE)


def tied_loss(module: nn.Module) -> Loss:
    return lambda output, target: MSE(output, target) + next(module.parameters()).square().sum()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("blocks", [None, everywhere])
@pytest.mark.parametrize(
    "make", [Tied, tied_sequential, lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()]
)
def test_hooks_after_accumulation_run_once_for_each_parameter(make: Any, blocks: Any, way: Way) -> None:
    plain = make()
    x, target = data(6, 4), data(6, 4)
    answers = []
    for each in (plainly, way):
        module = copy.deepcopy(plain)
        heard: list[tuple[str, Tensor]] = []
        for name, parameter in module.named_parameters():
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name, heard=heard: heard.append((name, p.grad.clone()))
            )
        each(module, tied_loss(module), x, target, blocks)
        names = [name for name, _ in heard]
        assert sorted(names) == sorted(name for name, _ in module.named_parameters())
        answers.append(dict(heard))
    assert_gradients(answers[1], answers[0])


@pytest.mark.parametrize("way", BACKWARD)
@pytest.mark.parametrize("blocks", [None, everywhere])
@pytest.mark.parametrize("make", [Tied, tied_sequential])
def test_hooks_on_parameters_run_once_with_the_whole_gradient(make: Any, blocks: Any, way: Way) -> None:
    plain = make()
    x, target = data(6, 4), data(6, 4)
    answers = []
    for each in (plainly, way):
        module = copy.deepcopy(plain)
        heard: list[tuple[str, Tensor]] = []

        def hook(gradient: Tensor, name: str, heard: list[tuple[str, Tensor]]) -> Tensor:
            heard.append((name, gradient.clone()))
            return gradient.tanh()  # not linear, so that hooks on parts would show

        for name, parameter in module.named_parameters():
            parameter.register_hook(lambda gradient, name=name, heard=heard, hook=hook: hook(gradient, name, heard))
        each(module, tied_loss(module), x, target, blocks)
        assert sorted(name for name, _ in heard) == sorted(name for name, _ in module.named_parameters())
        answers.append((dict(heard), {name: p.grad for name, p in module.named_parameters()}))
    for mine, other in zip(answers[1], answers[0], strict=True):
        assert_gradients(mine, other)


def test_hooks_on_parameters_change_the_gradient_of_a_relaxation_too() -> None:
    for make in (Tied, tied_sequential):
        module, x, target = make(), data(6, 4), data(6, 4)
        next(module.parameters()).register_hook(torch.tanh)
        assert_alike(module, x, target, tied_loss, of_module=True)


def test_an_optimizer_that_steps_in_the_backward_pass() -> None:
    """The usual way to keep no gradients: each parameter is stepped when its gradient is there, and forgets it."""

    def stepping(module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)

            def step(p: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
                optimizer.step()
                p.grad = None

            parameter.register_post_accumulate_grad_hook(step)
        return module

    for make in (Tied, tied_sequential, Pair, sequential):
        plain = make()
        x = data(6, 4)
        target = data(*plain(x).shape)
        moved = []
        for way, blocks in ((plainly, None), *((way, blocks) for way in BACKWARD for blocks in (None, everywhere))):
            module = stepping(copy.deepcopy(plain))
            for _ in range(3):
                way(module, MSE, x, target, blocks)
            assert all(p.grad is None for p in module.parameters())
            moved.append({name: p.detach() for name, p in module.named_parameters()})
        for found in moved[1:]:
            assert_gradients(found, moved[0])


# Wrappers, arguments, copies.


class Profiled(Pair):
    def between(self, h: Tensor) -> Tensor:
        with torch.profiler.record_function("between"):
            return torch.tanh(h)


def test_record_function() -> None:
    assert_alike(*pair_and_data(Profiled))


def test_data_parallel() -> None:
    assert_alike(nn.DataParallel(Pair()), data(6, 4), data(6, 3))
    assert_alike(nn.DataParallel(sequential()), data(6, 4), data(6, 3))


@pytest.fixture
def _alone(tmp_path: Path) -> Iterator[None]:
    """One process that is a group by itself."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_alone")
def test_distributed_data_parallel_is_told_of_each_gradient_once() -> None:
    plain, x, target = Tied(), data(6, 4), data(6, 4)
    twin = copy.deepcopy(plain)
    plainly(twin, MSE, x, target, None)
    for blocks in (None, everywhere):
        module = copy.deepcopy(plain)
        wrapped = nn.parallel.DistributedDataParallel(module)
        chain = ws.Chain(wrapped, MSE, blocks=blocks)
        for _ in range(2):  # whoever reduces gradients notices at the second step what was missing at the first
            module.zero_grad()
            ws.backward(chain, x, target)
            assert_gradients(grads(module), grads(twin))


class Stepping(nn.Module):
    """Takes Python's numbers, flags and names along."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.to(DOUBLE)

    def forward(self, x: Tensor, step: int, noise: float = 0.0, *, kind: str = "tanh", skip: bool = True) -> Tensor:
        for line in self.lines:
            h = getattr(torch, kind)(line(x))
            x = x + h if skip else h
        return x * 0.99**step + noise


def test_python_arguments() -> None:
    module, target = Stepping(), data(6, 4)
    for step in range(3):
        assert_alike(module, (data(6, 4), step, 0.1 * step), target)
        assert_alike(module, {"x": data(6, 4), "step": step, "kind": "sigmoid", "skip": step == 1}, target)


def test_one_chain_takes_other_arguments_at_each_call() -> None:
    module, x, target = Stepping(), data(6, 4), data(6, 4)
    twin, chain = copy.deepcopy(module), ws.Chain(module, MSE)
    for step, kind, skip in ((0, "tanh", True), (5, "sigmoid", True), (5, "sin", False), (0, "tanh", True)):
        given = {"x": x, "step": step, "kind": kind, "skip": skip}
        for each in (module, twin):
            each.zero_grad()
        wanted = plainly(twin, MSE, given, target, None)
        torch.testing.assert_close(ws.backward(chain, given, target), wanted, rtol=1e-12, atol=0)
        assert_gradients(grads(module), grads(twin))


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda chain: pickle.loads(pickle.dumps(chain))])
@pytest.mark.parametrize("make", [sequential, Pair, Tied, lambda: Below(Ema())])
def test_copies_of_a_chain_train_their_own_module(make: Any, copied: Any, used: bool) -> None:
    module = make()
    x = data(6, 4)
    target = data(*copy.deepcopy(module)(x).shape)
    chain = ws.Chain(module, MSE)
    if used:
        ws.backward(chain, x, target)
        ws.relax(chain, x, target)
        module.zero_grad()
    twin = copy.deepcopy(module)
    other = copied(chain)
    assert other.module is not module
    assert repr(other) == repr(chain)
    wanted = plainly(twin, MSE, x, target, None)
    torch.testing.assert_close(ws.backward(other, x, target), wanted, rtol=1e-12, atol=0)
    assert_gradients(grads(other.module), grads(twin))
    assert all(p.grad is None for p in module.parameters())


def test_a_chosen_class_is_pickled_with_the_chain() -> None:
    module, x, target = pair_and_data(Pair)
    chain = pickle.loads(pickle.dumps(ws.Chain(module, MSE, blocks=(nn.Linear,))))
    assert [row.name for row in chain.sites(x)] == ["a", "b"]
    plainly(module, MSE, x, target, None)
    ws.backward(chain, x, target)
    assert_gradients(grads(chain.module), grads(module))


def test_a_copy_that_is_made_in_the_middle_of_a_forward_is_an_ordinary_module() -> None:
    copies: list[nn.Module] = []

    class Copying(Pair):
        def between(self, h: Tensor) -> Tensor:
            if not copies:
                copies.extend((copy.deepcopy(self.a), copy.deepcopy(self.b)))
            return torch.tanh(h)

    module, x, target = pair_and_data(Copying)
    ws.backward(ws.Chain(module, MSE, blocks=everywhere), x, target)
    for each, own in zip(copies, (module.a, module.b), strict=True):
        h = data(6, own.in_features)
        assert each(h).equal(own(h))
        assert "_call_impl" not in vars(own)
        assert_alike(each, h, own(h).detach() + 1, choices=(None,))

"""Networks that are no chain, unmodified: per-parameter agreement with autograd, in both modes and precisions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from benchmarks.architectures import GPT, Bottleneck, DenseBlock, Mixed, Recurrent, ResNet, UNet
from nets import DOUBLE, random_fields, topology_of


def next_token(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


class Model(NamedTuple):
    """A network with the shapes of its data."""

    make: Callable[[], nn.Module]
    x: Callable[[], Tensor]
    loss: Callable[[Any, Any], Tensor]
    target: Callable[[], Tensor]


def classes(count: int, batch: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(count, (batch,))


MODELS = {
    "resnet": Model(
        lambda: ResNet(5, 4, (1, 2)), lambda: torch.randn(3, 3, 8, 8), nn.CrossEntropyLoss(), classes(5, 3)
    ),
    "bottlenecks": Model(
        lambda: ResNet(5, 4, (1, 2), Bottleneck), lambda: torch.randn(3, 3, 8, 8), nn.CrossEntropyLoss(), classes(5, 3)
    ),
    "dense": Model(DenseBlock, lambda: torch.randn(3, 4, 5, 5), nn.CrossEntropyLoss(), classes(5, 3)),
    "u-net": Model(
        lambda: UNet(scales=2), lambda: torch.randn(2, 2, 8, 8), nn.MSELoss(), lambda: torch.randn(2, 2, 8, 8)
    ),
    "gpt": Model(
        lambda: GPT(11, 8, 16, 2, 4, dropout=0.1),
        lambda: torch.randint(11, (2, 7)),
        next_token,
        lambda: torch.randint(11, (2, 7)),
    ),
    "lstm": Model(lambda: Recurrent(nn.LSTMCell), lambda: torch.randn(3, 6, 3), nn.CrossEntropyLoss(), classes(4, 3)),
    "gru": Model(lambda: Recurrent(nn.GRUCell), lambda: torch.randn(3, 6, 3), nn.CrossEntropyLoss(), classes(4, 3)),
    "mixed": Model(Mixed, lambda: torch.randn(3, 2, 6, 6), nn.CrossEntropyLoss(), classes(4, 3)),
}


def as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def everywhere(part: nn.Module) -> bool:
    return True


any_sites = pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])


class Answer(NamedTuple):
    """What one way of training leaves behind."""

    loss: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    generator: Tensor


def answer(module: nn.Module, run: Callable[[], Tensor]) -> Answer:
    """Loss, gradients, buffers and the generator after one call; the module is left as it was but for its buffers."""
    torch.manual_seed(3)
    loss = run().detach()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    for parameter in module.parameters():
        parameter.grad = None
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return Answer(loss, gradients, buffers, torch.get_rng_state())


def assert_same(found: Answer, wanted: Answer, tol: float) -> None:
    assert found.generator.equal(wanted.generator)
    assert found.gradients.keys() == wanted.gradients.keys()
    torch.testing.assert_close(found.loss, wanted.loss, rtol=tol, atol=0)
    for name, gradient in wanted.gradients.items():
        size = float(gradient.norm())
        assert float((found.gradients[name] - gradient).norm()) <= tol * size + 1e-12 * tol, name
    for name, buffer in wanted.buffers.items():
        torch.testing.assert_close(found.buffers[name], buffer, rtol=tol, atol=tol)


def by_sites(chain: ws.Chain, x: Tensor, target: Tensor) -> Tensor:
    return ws.backward(chain, x, target)


def in_rows(chain: ws.Chain, x: Tensor, target: Tensor) -> Tensor:
    return ws.backward(chain, x, target, schedule=ws.Sweep())


def relaxed(chain: ws.Chain, x: Tensor, target: Tensor) -> Tensor:
    sol = ws.relax(chain, x, target)
    assert sol.ticks == 2 * longest_path(topology_of(sol))
    sol.accumulate()
    return sol.loss


def all_at_once(chain: ws.Chain, x: Tensor, target: Tensor) -> Tensor:
    return ws.backward(chain, x, target, schedule=ws.Synchronous())


@any_sites
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (DOUBLE, 1e-10)], ids=["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_agrees_with_autograd(
    name: str, dtype: torch.dtype, tol: float, training: bool, blocks: Any
) -> None:
    model = MODELS[name]
    torch.manual_seed(0)
    module = model.make().to(dtype).train(training)
    x, target = as_dtype(model.x(), dtype), as_dtype(model.target(), dtype)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    wanted = answer(module, lambda: whole(module, model.loss, x, target))
    for way in (by_sites, in_rows, relaxed, all_at_once):
        chain = ws.Chain(module, model.loss, blocks=blocks)
        for _ in range(2):  # the second time with what the first has learnt of the module
            module.load_state_dict(before)
            assert_same(answer(module, partial(way, chain, x, target)), wanted, tol)
    module.load_state_dict(before)
    sol = ws.relax(chain, x, target)
    assert ws.compare(chain, x, target, sol).relative_error <= tol
    assert len(chain.sites(x)) > 2


def whole(module: nn.Module, loss: Callable[[Any, Any], Tensor], x: Tensor, target: Tensor) -> Tensor:
    value = loss(module(x), target)
    value.backward()
    return value


def longest_path(graph: ws.extend.Topology) -> int:
    """Counted anew, from the cost back."""
    length = {0: 0}
    for site, parents in enumerate(graph.parents, start=1):
        length[site] = 1 + max(length[parent] for parent in parents)
    return max(length.values())


@any_sites
@pytest.mark.parametrize("name", ["dense", "u-net", "gru", "lstm"])
def test_exact_after_twice_the_longest_path_and_not_before(name: str, blocks: Any) -> None:
    model = MODELS[name]
    torch.manual_seed(0)
    module, x, target = model.make().double().eval(), model.x().double(), as_dtype(model.target(), DOUBLE)
    chain = ws.Chain(module, model.loss, blocks=blocks)
    exact = ws.relax(chain, x, target).fields
    whole(module, model.loss, x, target)
    wanted = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    topology = chain.sites(x).topology
    depth = longest_path(topology)
    start = random_fields(exact, seed=1)

    def after(ticks: int) -> ws.Solution:
        stop = ws.Stop(max_ticks=ticks)
        return ws.relax(chain, x, target, schedule=ws.Synchronous(), stop=stop, initial=start)

    def far(mine: Tensor, other: Tensor) -> bool:
        return float((mine - other).norm()) > 1e-11 * float(other.norm())

    full, early = after(2 * depth), after(2 * depth - 1)
    assert full.outcome.converged
    assert not any(map(far, full.fields.states, exact.states))
    assert not any(map(far, full.fields.costates, exact.costates))
    for key, gradient in full.gradients().items():
        assert float((gradient - wanted[key]).norm()) <= 1e-12 * float(wanted[key].norm())
    assert not early.outcome.converged
    settled = ws.schedules.simulate(ws.Synchronous(), topology).costates
    assert max(settled) == 2 * depth
    assert list(map(far, early.fields.costates, exact.costates)) == [tick == 2 * depth for tick in settled]


@any_sites
@pytest.mark.parametrize("name", MODELS)
def test_a_module_is_left_as_it_was(name: str, blocks: Any) -> None:
    model = MODELS[name]
    module = model.make()
    kept = {key: value.clone() for key, value in module.state_dict().items()}
    parts = [dict(vars(part)) for part in module.modules()]
    x = model.x()
    state = torch.get_rng_state()
    assert len(ws.Chain(module, model.loss, blocks=blocks).sites(x)) > 2
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(kept[key]) for key, value in module.state_dict().items())
    for part, before in zip(module.modules(), parts, strict=True):
        assert vars(part).keys() == before.keys()
        assert all(vars(part)[key] is before[key] for key in before)
    assert all(p.grad is None for p in module.parameters())

"""`.grad` after `ws.backward` is what it is after `loss.backward()`: filled, added to, summed, and the user's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, ORDERS, Net, Order, Residual, every_order, grad, regression, tanh_net


def autograd_fills(net: Net) -> list[Tensor | None]:
    """Gradients of `loss.backward()`; `.grad` is left empty."""
    net.module.zero_grad()
    net.loss(net.module(net.x), net.target).backward()
    found = [parameter.grad for parameter in net.module.parameters()]
    net.module.zero_grad()
    return found


def assert_same(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    for mine, other in zip(found, wanted, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert mine.layout == other.layout
            torch.testing.assert_close(mine.to_dense(), other.to_dense(), rtol=1e-11, atol=1e-14)


def check(net: Net, order: Order = ws.Wavefront) -> None:
    """`ws.backward` fills what `loss.backward()` fills."""
    wanted = autograd_fills(net)
    ws.backward(net.chain, net.x, net.target, schedule=order())
    assert_same([parameter.grad for parameter in net.module.parameters()], wanted)


@every_order
def test_a_second_call_adds_to_grad_in_place(order: Order) -> None:
    net = tanh_net(3)
    ws.backward(net.chain, net.x, net.target, schedule=order())
    grads = [p.grad for p in net.module.parameters() if p.grad is not None]
    once = [grad.clone() for grad in grads]
    ws.backward(net.chain, net.x, net.target, schedule=order())
    assert all(p.grad is grad for p, grad in zip(net.module.parameters(), grads, strict=True))
    assert all(grad.equal(2 * first) for grad, first in zip(grads, once, strict=True))


def test_a_solution_adds_its_gradients_once_per_accumulate() -> None:
    net = tanh_net(3)
    sol = ws.relax(net.chain, net.x, net.target)
    assert all(p.grad is None for p in net.module.parameters())
    sol.accumulate()
    sol.accumulate()
    named = dict(net.module.named_parameters())
    for name, gradient in sol.gradients().items():
        grad = named[name].grad
        assert grad is not None
        assert grad.equal(2 * gradient)


def test_the_inputs_grad_is_added_to() -> None:
    net = tanh_net(3)
    net.x.requires_grad_()
    (wanted,) = torch.autograd.grad(net.loss(net.module(net.x), net.target), net.x)
    for times in (1, 2):
        ws.backward(net.chain, net.x, net.target)
        torch.testing.assert_close(net.x.grad, times * wanted, rtol=1e-12, atol=1e-15)


@every_order
def test_frozen_parameters_keep_none_and_the_rest_is_unchanged(order: Order) -> None:
    net = tanh_net(5)
    for name in ("0", "2", "3"):
        net.module.get_submodule(name).requires_grad_(False)
    net.module[4].bias.requires_grad_(False)
    check(net, order)
    assert net.module.get_submodule("0.0").weight.grad is None


class Counting(nn.Module):
    """A linear layer that counts how often anything is pulled back through it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=DOUBLE)
        self.pulls = 0

    def forward(self, x: Tensor) -> Tensor:
        output = self.linear(x)
        if output.requires_grad:
            output.register_hook(self._count)
        return output

    def _count(self, _: Tensor) -> None:
        self.pulls += 1


@pytest.mark.parametrize("order", [ws.Wavefront, ws.Sweep])
@pytest.mark.parametrize("frozen", [0, 1, 3, 4])
def test_frozen_lower_layers_cost_no_pull_back(frozen: int, order: Order) -> None:
    layers = [Counting() for _ in range(5)]
    for layer in layers[:frozen]:
        layer.requires_grad_(False)
    check(regression(nn.Sequential(*layers)), order)
    for layer in layers:
        layer.pulls = 0
    net = regression(nn.Sequential(*layers))
    ws.backward(net.chain, net.x, net.target, schedule=order())
    assert [layer.pulls for layer in layers] == [0] * frozen + [1] * (5 - frozen)


def test_no_grad_around_the_call_changes_nothing() -> None:
    net = tanh_net(3)
    wanted = autograd_fills(net)
    for order in ORDERS.values():
        net.module.zero_grad()
        with torch.no_grad():
            ws.backward(net.chain, net.x, net.target, schedule=order())
        assert_same([parameter.grad for parameter in net.module.parameters()], wanted)


class Twice(nn.Module):
    """One weight used twice inside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight) @ self.weight


class Unused(nn.Module):
    """A layer with a parameter that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 4, dtype=DOUBLE), nn.Linear(4, 4, dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Probe(nn.Module):
    """A head that learns without telling the layers below."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.detach())


def tied() -> nn.Sequential:
    first, last = nn.Linear(4, 4, dtype=DOUBLE), nn.Linear(4, 4, dtype=DOUBLE)
    last.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), last)


def shared() -> nn.Sequential:
    layer = nn.Linear(4, 4, dtype=DOUBLE)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), layer)


CASES: list[Callable[[], nn.Sequential]] = [
    tied,
    shared,
    lambda: nn.Sequential(nn.Linear(4, 4, dtype=DOUBLE), Twice()),
    lambda: nn.Sequential(Unused(), nn.Tanh(), Unused()),
    lambda: nn.Sequential(nn.Identity(), nn.Linear(4, 4, dtype=DOUBLE), nn.Identity(), nn.Sequential()),
    lambda: nn.Sequential(Residual(shared()), Residual(Residual(tied()))),
]
NAMES = ["tied", "one-module-three-sites", "used-twice", "unused", "identities", "nested"]


@every_order
@pytest.mark.parametrize("make", CASES, ids=NAMES)
def test_every_use_of_a_parameter_counts(make: Callable[[], nn.Sequential], order: Order) -> None:
    torch.manual_seed(0)
    check(regression(make()), order)


def test_layers_below_a_detached_head_keep_none() -> None:
    check(regression(nn.Sequential(nn.Linear(4, 4, dtype=DOUBLE), nn.Tanh(), Probe())))


@every_order
def test_a_detached_head_learns_as_with_autograd(order: Order) -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4, dtype=DOUBLE).requires_grad_(False), nn.Tanh(), Probe()))
    check(net, order)


def test_tied_parameters_have_one_gradient_under_their_first_name() -> None:
    net = regression(shared())
    assert [name for name, _ in net.chain.named_parameters()] == ["0.weight", "0.bias"]
    assert list(ws.relax(net.chain, net.x, net.target).gradients()) == ["0.weight", "0.bias"]
    assert len(list(net.chain.parameters())) == 2


@every_order
@pytest.mark.parametrize("sparse", [False, True])
def test_token_indices_feed_an_embedding(order: Order, sparse: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(7, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 5)).to(DOUBLE)
    net = Net(module, nn.CrossEntropyLoss(), torch.tensor([[1, 1, 6], [0, 1, 3]]), torch.tensor([4, 0]))
    check(net, order)
    table = module.get_parameter("0.weight")
    before = grad(table).to_dense().clone()
    ws.backward(net.chain, net.x, net.target, schedule=order())
    torch.testing.assert_close(grad(table).to_dense(), 2 * before)


def test_a_sparse_embedding_may_be_tied_to_the_output() -> None:
    embedding, decoder = nn.Embedding(7, 4, sparse=True, dtype=DOUBLE), nn.Linear(4, 7, bias=False, dtype=DOUBLE)
    decoder.weight = embedding.weight
    module = nn.Sequential(embedding, nn.Tanh(), decoder)
    check(Net(module, nn.CrossEntropyLoss(), torch.tensor([1, 2, 3]), torch.tensor([0, 6, 4])))

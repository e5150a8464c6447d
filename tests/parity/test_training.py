"""Steps of training with `ws.backward` are those with autograd, under every optimizer of torch."""

import copy
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn, optim

import worldsheet as ws
from nets import DOUBLE, Net, Order, every_order, grad, tanh_net

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], optim.Optimizer]] = {
    "sgd": partial(optim.SGD, lr=0.1),
    "momentum": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": partial(optim.Adam, lr=0.02),
    "adamw": partial(optim.AdamW, lr=0.02, weight_decay=0.1),
    "rmsprop": partial(optim.RMSprop, lr=0.01),
    "adagrad": partial(optim.Adagrad, lr=0.1),
}
STEPS = 12


def batches(net: Net) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(net.x.shape, dtype=DOUBLE, generator=generator), net.target.roll(step, 0)) for step in range(STEPS)
    ]


def train(
    net: Net,
    backward: Callable[[nn.Module, Tensor, Tensor], Tensor],
    make: Callable[[Iterable[nn.Parameter]], optim.Optimizer],
) -> tuple[nn.Module, list[Tensor]]:
    """A plain loop with clipping and a learning-rate schedule, on a copy of the net."""
    module = copy.deepcopy(net.module)
    optimizer = make(module.parameters())
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    losses = []
    for x, target in batches(net):
        optimizer.zero_grad()
        losses.append(backward(module, x, target).detach())
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
    return module, losses


def by_autograd(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    loss = nn.functional.mse_loss(module(x), target)
    loss.backward()
    return loss


def by_relaxation(schedule: ws.schedules.Schedule, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return ws.backward(ws.Chain(module, nn.functional.mse_loss), x, target, schedule=schedule)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@every_order
def test_training_is_training_with_autograd(make: Callable[..., optim.Optimizer], order: Order) -> None:
    net = tanh_net(4)
    mine, mine_losses = train(net, partial(by_relaxation, order()), make)
    other, other_losses = train(net, by_autograd, make)
    torch.testing.assert_close(mine_losses, other_losses, rtol=1e-9, atol=0)
    torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=1e-9, atol=1e-12)
    moved = [float((a - b).detach().norm()) for a, b in zip(mine.parameters(), net.module.parameters(), strict=True)]
    assert min(moved) > 1e-3


def _closure(optimizer: optim.Optimizer, backward: Callable[..., Tensor], module: nn.Module, net: Net) -> Tensor:
    optimizer.zero_grad()
    return backward(module, net.x, net.target)


def test_lbfgs_with_its_closure_is_lbfgs_with_autograd() -> None:
    net = tanh_net(3)
    results = []
    for backward in (by_autograd, partial(by_relaxation, ws.Wavefront())):
        module = copy.deepcopy(net.module)
        optimizer = optim.LBFGS(module.parameters(), lr=0.5, max_iter=4)

        def closure(
            module: nn.Module = module,
            optimizer: optim.Optimizer = optimizer,
            backward: Callable[..., Tensor] = backward,
        ) -> Tensor:
            optimizer.zero_grad()
            return backward(module, net.x, net.target)

        for _ in range(3):
            optimizer.step(closure)
        results.append(module.state_dict())
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-9)


def test_one_chain_serves_a_whole_training_run() -> None:
    net = tanh_net(3)
    chain = net.chain
    optimizer = optim.SGD(chain.parameters(), lr=0.1)
    reference = copy.deepcopy(net.module)
    other = optim.SGD(reference.parameters(), lr=0.1)
    for x, target in batches(net):
        optimizer.zero_grad()
        ws.backward(chain, x, target)
        optimizer.step()
        other.zero_grad()
        by_autograd(reference, x, target)
        other.step()
    torch.testing.assert_close(net.module.state_dict(), reference.state_dict(), rtol=1e-10, atol=1e-13)


def test_a_slow_rate_trains_nearly_alike() -> None:
    net = tanh_net(3)
    slow = partial(_slowly, ws.Dyadic(0.6), ws.Stop(tol=1e-10))
    mine, _ = train(net, slow, OPTIMIZERS["sgd"])
    other, _ = train(net, by_autograd, OPTIMIZERS["sgd"])
    torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-8)


def _slowly(dynamics: ws.dynamics.Dynamics, stop: ws.Stop, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return ws.backward(ws.Chain(module, nn.functional.mse_loss), x, target, dynamics, stop=stop)


def test_gradients_accumulate_over_micro_batches() -> None:
    net = tanh_net(3)
    whole = torch.autograd.grad(net.loss(net.module(net.x), net.target), list(net.module.parameters()))
    for x, target in zip(net.x.split(1), net.target.split(1), strict=True):
        ws.backward(net.chain, x, target)
    for parameter, gradient in zip(net.module.parameters(), whole, strict=True):
        torch.testing.assert_close(grad(parameter) / len(net.x), gradient, rtol=1e-12, atol=1e-15)

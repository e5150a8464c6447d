"""A grounded port against its inner port on W and b̂ = b + W x̂ written out, derivatives by autograd."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.05),
    "momentum": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-2),
    "inertial": partial(ws.ports.Inertial, lr=0.02),
}
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[..., Tensor]]] = {
    "linear": (lambda: nn.Linear(4, 3), (6, 4), F.linear),
    "conv": (lambda: nn.Conv2d(2, 3, 3, stride=2), (4, 2, 7, 6), partial(F.conv2d, stride=2)),
}


def samples(shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [2 + torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(8)]


def common_mode(pasts: list[tuple[Tensor, Tensor]], memory: float) -> Tensor:
    """(P2) over all steps so far: efforts of W as matrices, and of b."""
    ages = [memory ** (len(pasts) - 1 - step) for step in range(len(pasts))]
    along = sum(age * weight.flatten(1).t() @ bias for age, (weight, bias) in zip(ages, pasts, strict=True))
    square = sum(age * bias.square().sum() for age, (_, bias) in zip(ages, pasts, strict=True))
    return torch.as_tensor(along / square)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_inner_port_moves_the_weight_and_the_grounded_bias(kind: str, optimizer: str) -> None:
    make, shape, apply = KINDS[kind]
    torch.manual_seed(0)
    layer = make().double()
    twin = copy.deepcopy(layer)
    port = ws.ports.BiasCentered(OPTIMIZERS[optimizer](layer.parameters()), [layer], memory=0.7)
    weight, grounded = (p.detach().clone().requires_grad_() for p in twin.parameters())
    inner = OPTIMIZERS[optimizer]([weight, grounded])
    bias = grounded.detach().clone()
    pasts: list[tuple[Tensor, Tensor]] = []
    for x in samples(shape):
        port.zero_grad()
        layer(x).square().mean().backward()
        port.step()

        plain = [t.detach().clone().requires_grad_() for t in (weight, bias)]
        along, across = torch.autograd.grad(apply(x, *plain).square().mean(), plain)
        pasts.append((along, across))
        mean = common_mode(pasts, 0.7).view_as(weight[0])
        with torch.no_grad():
            grounded.copy_(bias + (weight * mean).flatten(1).sum(1))
        inner.zero_grad()
        apply(x, weight, grounded - (weight * mean).flatten(1).sum(1)).square().mean().backward()
        inner.step()
        bias = (grounded - (weight * mean).flatten(1).sum(1)).detach()
        torch.testing.assert_close(layer.get_parameter("weight"), weight, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(layer.get_parameter("bias"), bias, rtol=1e-11, atol=1e-13)


def test_inputs_that_are_all_the_same_move_the_bias_alone() -> None:
    layer = nn.Linear(5, 4, dtype=torch.float64)
    weight, bias = (p.detach().clone() for p in layer.parameters())
    port = ws.ports.BiasCentered(torch.optim.SGD(layer.parameters(), lr=0.1), [layer])
    x = torch.arange(5.0, dtype=torch.float64).expand(7, 5)
    for _ in range(3):
        port.zero_grad()
        (layer(x) - torch.randn(7, 4, dtype=torch.float64)).square().sum().backward()
        port.step()
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=1e-12)
    assert float((layer.bias.detach() - bias).norm()) > 0.1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_grounded_port_resumes_from_its_state(optimizer: str) -> None:
    torch.manual_seed(1)
    nets = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()]
    nets.append(copy.deepcopy(nets[0]))
    ports = [ws.ports.BiasCentered(OPTIMIZERS[optimizer](net.parameters()), [net]) for net in nets]
    for step, x in enumerate(samples((6, 4))):
        if step == 4:
            nets[1].load_state_dict(nets[0].state_dict())
            ports[1].load_state_dict(copy.deepcopy(ports[0].state_dict()))
        for net, port in list(zip(nets, ports, strict=True))[: 1 + (step >= 4)]:
            port.zero_grad()
            net(x).square().mean().backward()
            port.step()
    for mine, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_weight_that_two_layers_share_is_the_inner_ports() -> None:
    torch.manual_seed(2)
    first, second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    second.weight = first.weight
    net = nn.Sequential(first, nn.Tanh(), second)
    twin = copy.deepcopy(net)
    port = ws.ports.BiasCentered(torch.optim.SGD(net.parameters(), lr=0.1), [net])
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    for x in samples((6, 4)):
        for model, mover in ((net, port), (twin, plain)):
            mover.zero_grad()
            model(x).square().mean().backward()
            mover.step()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("delay", "grounded"), [(0.5, False), (2.0, False), (2.5, True), (7.0, True)])
def test_a_passive_stage_is_grounded_where_it_is_later_than_prompt(delay: float, grounded: bool) -> None:
    torch.manual_seed(3)
    layers = [nn.Linear(3, 2).double() for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    make = partial(torch.optim.Adam, lr=0.05)
    passive = ws.pipeline.DelayCompensated().port(make(layers[0].parameters()), [layers[0]], delay)
    slowed = ws.ports.delayed(make(layers[1].parameters()), delay)
    expected = ws.ports.BiasCentered(slowed, [layers[1]]) if grounded else slowed
    for _ in range(4):
        x = torch.randn(5, 3).double() + 2
        for layer, port in zip(layers, (passive, expected), strict=True):
            layer.zero_grad()
            layer(x).square().mean().backward()
            port.step()
    assert all(torch.equal(*pair) for pair in zip(layers[0].parameters(), layers[1].parameters(), strict=True))

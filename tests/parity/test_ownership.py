"""A `.grad` belongs to its parameter alone: users write into it, and nothing else may change."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, grad, laid_out, regression


class TwoBiases(nn.Module):
    """x + a + b: both gradients are the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(4, dtype=DOUBLE)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.a + self.b)


class Joined(nn.Module):
    """x + cat(a, b) + c: the gradients of a and b are parts of c's."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.randn(4, dtype=DOUBLE))
        self.a, self.b = (nn.Parameter(torch.randn(2, dtype=DOUBLE)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.cat([self.a, self.b]) + self.c)


class Broadcast(nn.Module):
    """Adds a tensor of the output's shape: its gradient may be the costate itself."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(3, 4, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


def linear() -> nn.Linear:
    return nn.Linear(4, 4, dtype=DOUBLE)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(nn.Sequential(linear(), TwoBiases(), linear()), id="two-biases"),
        pytest.param(nn.Sequential(linear(), Joined(), linear()), id="joined"),
        pytest.param(nn.Sequential(Broadcast(), Broadcast(), nn.Identity(), Broadcast()), id="offsets"),
    ],
)
def test_writing_into_one_grad_changes_no_other(module: nn.Sequential) -> None:
    net = regression(module)
    net.x.requires_grad_()
    ws.backward(net.chain, net.x, net.target)
    leaves = [net.x, *module.parameters()]
    before = [grad(leaf).clone() for leaf in leaves]
    for k, leaf in enumerate(leaves):
        grad(leaf).fill_(7.0)
        for other, kept in zip(leaves[k + 1 :], before[k + 1 :], strict=True):
            assert grad(other).equal(kept)


def test_clipping_scales_every_grad_once() -> None:
    net = regression(nn.Sequential(linear(), TwoBiases(), nn.Tanh(), TwoBiases()))
    net.loss(net.module(net.x), net.target).backward()
    nn.utils.clip_grad_norm_(net.module.parameters(), 1e-3)
    wanted = [p.grad for p in net.module.parameters()]
    net.module.zero_grad()
    ws.backward(net.chain, net.x, net.target)
    nn.utils.clip_grad_norm_(net.module.parameters(), 1e-3)
    torch.testing.assert_close([p.grad for p in net.module.parameters()], wanted, rtol=1e-12, atol=1e-16)


def test_writing_into_grad_leaves_a_solution_alone() -> None:
    net = regression(nn.Sequential(linear(), Broadcast()))
    sol = ws.relax(net.chain, net.x, net.target)
    kept = [t.clone() for t in (*sol.states, *sol.costates, *sol.gradients().values())]
    sol.accumulate()
    for parameter in net.module.parameters():
        grad(parameter).zero_()
    for mine, other in zip((*sol.states, *sol.costates, *sol.gradients().values()), kept, strict=True):
        assert mine.equal(other)


def test_writing_into_returned_gradients_leaves_the_fields_alone() -> None:
    net = regression(nn.Sequential(linear(), Broadcast()))
    sol = ws.relax(net.chain, net.x, net.target)
    kept = [costate.clone() for costate in sol.costates]
    for gradient in sol.gradients().values():
        gradient.zero_()
    assert all(mine.equal(other) for mine, other in zip(sol.costates, kept, strict=True))


class Inner(torch.autograd.Function):
    """⟨output, target⟩, whose derivative is the target itself, handed out without a copy."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(target)
        return (output * target).sum()

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        (target,) = ctx.saved_tensors
        return target, None


def test_writing_into_grad_leaves_the_users_tensors_alone() -> None:
    net = regression(nn.Sequential(Broadcast()))
    kept = net.target.clone()
    ws.backward(ws.Chain(net.module, Inner.apply), net.x, net.target)
    grad(net.module.get_parameter("0.offset")).zero_()
    assert net.target.equal(kept)


def test_grad_has_its_parameters_memory_layout() -> None:
    torch.manual_seed(0)
    conv = laid_out(nn.Conv2d(4, 4, 3).to(DOUBLE), torch.channels_last)
    module = nn.Sequential(conv, nn.ReLU(), nn.Flatten())
    chain = ws.Chain(module, lambda output, target: (output - target).square().sum())
    x = torch.randn(2, 4, 5, 5, dtype=DOUBLE).to(memory_format=torch.channels_last)
    target = torch.randn(2, 36, dtype=DOUBLE)
    (wanted,) = torch.autograd.grad(chain.loss(module(x), target), [conv.weight])
    ws.backward(chain, x, target)
    assert grad(conv.weight).stride() == conv.weight.stride()
    torch.testing.assert_close(conv.weight.grad, wanted, rtol=1e-12, atol=1e-14)

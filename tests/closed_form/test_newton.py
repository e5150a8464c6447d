"""Newton's port finds in one step what least squares gives on paper."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from nets import DOUBLE


def one_step(net: nn.Module, x: Tensor, target: Tensor) -> ws.ports.Newton:
    """Curvature of the batch, its gradient, and one undamped step."""
    port = ws.ports.Newton(net, damping=0.0, memory=0.0)
    chain = ws.Chain(nn.Sequential(net), nn.MSELoss())
    ws.diagnostics.curvature(chain, x, target, port)
    ws.backward(chain, x, target)
    port.step()
    return port


@pytest.mark.parametrize("bias", [True, False])
def test_one_step_is_the_least_squares_optimum_of_a_linear_layer(bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Linear(6, 3, bias=bias).to(DOUBLE)
    x, target = torch.randn(40, 6, dtype=DOUBLE), torch.randn(40, 3, dtype=DOUBLE)
    port = one_step(net, x, target)
    design = torch.cat([x, torch.ones(40, 1, dtype=DOUBLE)], 1) if bias else x
    wanted = torch.linalg.lstsq(design, target).solution.t()
    found = torch.cat([net.weight, net.bias[:, None]], 1) if bias else net.weight
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-8, atol=1e-10)
    assert port.reflected_power < 1e-24 * port.incident_power


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_step_is_the_least_squares_optimum_of_a_convolution(bias: bool, stride: int) -> None:
    torch.manual_seed(1)
    net = nn.Conv2d(2, 3, (3, 2), stride=stride, padding=1, bias=bias).to(DOUBLE)
    x = torch.randn(5, 2, 7, 6, dtype=DOUBLE)
    target = torch.randn_like(net(x)).detach()
    port = one_step(net, x, target)
    design = F.unfold(x, (3, 2), padding=1, stride=stride).transpose(1, 2).flatten(0, 1)
    if bias:
        design = torch.cat([design, torch.ones(len(design), 1, dtype=DOUBLE)], 1)
    rows = target.permute(0, 2, 3, 1).flatten(0, 2)
    wanted = torch.linalg.lstsq(design, rows).solution.t()
    rest = [] if net.bias is None else [net.bias[:, None]]
    found = torch.cat([net.weight.flatten(1), *rest], 1)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-8, atol=1e-10)
    assert port.reflected_power < 1e-20 * port.incident_power


def squared(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(module(x), target)


def test_the_curvature_of_a_linear_layer_is_the_hessian() -> None:
    torch.manual_seed(2)
    net = nn.Linear(4, 3, bias=False).to(DOUBLE)
    x, target = torch.randn(9, 4, dtype=DOUBLE), torch.randn(9, 3, dtype=DOUBLE)
    port = ws.ports.Newton(net, damping=0.0, memory=0.0)
    ws.diagnostics.curvature(ws.Chain([net], nn.MSELoss()), x, target, port)
    state = port.state[net.weight]
    hessian = torch.autograd.functional.hessian(lambda w: F.mse_loss(F.linear(x, w), target), net.weight.detach())
    torch.testing.assert_close(torch.kron(state["credits"], state["inputs"]), hessian.reshape(12, 12))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_credit_factors_of_a_deep_net_are_gauss_newtons(reduction: str) -> None:
    """G_l = E[J_lᵀ H J_l] with H = diag(p) − ppᵀ, by explicit Jacobians."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(DOUBLE)
    x, target = torch.randn(7, 4, dtype=DOUBLE), torch.randint(3, (7,))
    port = ws.ports.Newton(net, memory=0.0, averaged=reduction == "mean")
    ws.diagnostics.curvature(ws.Chain(net, nn.CrossEntropyLoss(reduction=reduction)), x, target, port)
    wanted = torch.zeros(5, 5, dtype=DOUBLE)
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda z: net[2](net[1](z)), net[0](row))
        chances = net(row).softmax(0)
        wanted += jacobian.t() @ (torch.diag(chances) - torch.outer(chances, chances)) @ jacobian
    wanted = wanted.detach() / (7 if reduction == "mean" else 1)
    torch.testing.assert_close(port.state[net.get_parameter("0.weight")]["credits"], wanted)


def test_damping_is_reflected_and_less_of_it_reflects_less() -> None:
    torch.manual_seed(4)
    net = nn.Linear(4, 2).to(DOUBLE)
    x, target = torch.randn(20, 4, dtype=DOUBLE), torch.randn(20, 2, dtype=DOUBLE)
    echoes = []
    for damping in (1.0, 1e-2, 1e-4, 0.0):
        port = ws.ports.Newton(copy.deepcopy(net), damping=damping, memory=0.0)
        weight, bias = port.param_groups[0]["params"]
        twin = nn.Linear(4, 2).to(DOUBLE)
        twin.weight, twin.bias = weight, bias
        chain = ws.Chain([twin], nn.MSELoss())
        ws.diagnostics.curvature(chain, x, target, port)
        ws.backward(chain, x, target)
        effort = torch.cat([weight.grad, bias.grad[:, None]], 1)
        state = port.state[weight]
        factors = [state[name] for name in ("inputs", "credits")]
        ratio = factors[0].diagonal().mean() / factors[1].diagonal().mean()
        shares = [(damping * ratio) ** 0.5, (damping / ratio) ** 0.5]
        roots = [f + share * torch.eye(len(f), dtype=DOUBLE) for f, share in zip(factors, shares, strict=True)]
        port.step()
        curvature, damped = (torch.kron(pair[1], pair[0]) for pair in (factors, roots))
        flow = torch.linalg.solve(damped, effort.flatten())
        echo = effort.flatten() - curvature @ flow
        power = float(echo @ torch.linalg.solve(damped, echo)) / 2
        assert port.reflected_power == pytest.approx(power, rel=1e-6, abs=1e-20)
        echoes.append(port.reflected_power / port.incident_power)
    assert echoes[0] > 3 * echoes[1] > 9 * echoes[2] > 27 * echoes[3]

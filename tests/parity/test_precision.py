"""Every floating dtype works; in float32 gradients are backprop's to float32's own rounding."""

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import Net, Order, assert_gradients, autograd, every_order, exact

TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 4e-2}


def net_of(dtype: torch.dtype) -> Net:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3)
    )
    return Net(module.to(dtype), nn.CrossEntropyLoss(), torch.randn(5, 6, dtype=dtype), torch.randint(3, (5,)))


@every_order
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gradients_keep_their_dtype_and_are_autograds(dtype: torch.dtype, order: Order) -> None:
    net = net_of(dtype)
    wanted = exact(net)
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert sol.loss.equal(net.loss(net.module(net.x), net.target).detach())
    assert {t.dtype for t in (*sol.states, *sol.costates, *sol.gradients().values())} == {dtype}
    for name, gradient in sol.gradients().items():
        error = (gradient - wanted[name]).double().norm() / wanted[name].double().norm()
        assert error <= TOLERANCES[dtype], name


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_a_slow_rate_converges_to_the_dtypes_rounding(dtype: torch.dtype, tol: float) -> None:
    net = net_of(dtype)
    sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.75))
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net), tol=tol)


@every_order
def test_a_complex_chain_with_a_real_loss(order: Order) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(n, m, dtype=torch.complex128) for n, m in [(4, 5), (5, 3), (3, 2)]))
    x, target = (torch.randn(6, n, dtype=torch.complex128) for n in (4, 2))

    def distance(output: Tensor, wanted: Tensor) -> Tensor:
        return (output - wanted).abs().square().mean()

    sol = ws.relax(ws.Chain(module, distance), x, target, schedule=order())
    assert_gradients(sol.gradients(), autograd(module, distance, x, target), tol=1e-12)
    slow = ws.relax(ws.Chain(module, distance), x, target, ws.Dyadic(0.8), stop=ws.Stop(tol=1e-13))
    assert_gradients(slow.gradients(), sol.gradients(), tol=1e-11)


@pytest.mark.parametrize("schedule", [ws.Wavefront(), ws.Synchronous()], ids=["wavefront", "synchronous"])
def test_a_deep_float32_net_keeps_every_layers_direction(schedule: ws.schedules.Schedule) -> None:
    torch.manual_seed(0)
    width, depth = 128, 30
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.orthogonal_(linear.weight)
        layers.append(nn.Sequential(linear, nn.Tanh()))
    module = nn.Sequential(*layers, nn.Linear(width, 10))
    x, target = torch.randn(16, width), torch.randint(10, (16,))
    sol = ws.relax(ws.Chain(module, nn.CrossEntropyLoss()), x, target, schedule=schedule)
    wanted = autograd(module.double(), nn.CrossEntropyLoss(), x.double(), target)
    found = sol.gradients()
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.norm() > 1e-6
        cosine = torch.cosine_similarity(found[name].double().flatten(), gradient.flatten(), dim=0)
        assert cosine >= 0.99999, name

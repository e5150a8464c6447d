"""Products with single layers are those of the dense Jacobian, and calibration leaves no trace."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import Net, Residual, law, nets, random_fields, regression, stack, tanh_net
from worldsheet.cut import Replayed
from worldsheet.dynamics.spectrum import largest_eigenvalue, residual_gain
from worldsheet.problem import linearise


def dense_shift(net: Net) -> Tensor:
    """N as one matrix: row blocks are sites' outputs, column blocks the states they read."""
    layers = [layer.module for layer in net.chain.layers]
    states = list(ws.relax(net.chain, net.x, net.target).states)
    sizes = [state.numel() for state in states]
    matrix = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
    for site in range(1, len(states)):
        block = torch.autograd.functional.jacobian(layers[site], states[site - 1])
        row, column = sum(sizes[:site]), sum(sizes[: site - 1])
        matrix[row : row + sizes[site], column : column + sizes[site - 1]] = block.reshape(sizes[site], -1)
    return matrix


def flat(fields: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([field.flatten() for field in fields])


@law(15)
@given(nets(max_depth=5))
def test_products_are_those_of_the_dense_jacobian(net: Net) -> None:
    shift = dense_shift(net)
    fields = random_fields(ws.relax(net.chain, net.x, net.target).fields, 1)
    with linearise(net.chain, net.x, net.target) as linearised:
        up, down = flat(linearised.ahead(fields.states)), flat(linearised.back(fields.costates))
    torch.testing.assert_close(up, shift @ flat(fields.states), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(down, shift.T @ flat(fields.costates), rtol=1e-9, atol=1e-11)


def opened(net: Net) -> ws.Chain:
    """The same sites, found by running the module."""
    sites = {layer.module for layer in net.chain.layers}
    return ws.Chain(net.module, net.loss, blocks=lambda module: module in sites)


@law(20)
@given(nets(max_depth=5), st.booleans(), st.booleans())
def test_products_through_all_layers_invert_one_less_the_shift(net: Net, as_a_module: bool, forward_mode: bool) -> None:
    """(1 − N)⁻¹ v and (1 − Nᵀ)⁻¹ c, by forward mode and by differences of whole runs."""
    chain = opened(net) if as_a_module else net.chain
    x = net.x.clone().requires_grad_()
    fields = random_fields(ws.relax(chain, x, net.target).fields, 1)
    inverse = torch.linalg.inv(torch.eye(flat(fields.states).numel(), dtype=torch.float64) - dense_shift(net))
    with linearise(chain, x, net.target) as linearised, pytest.MonkeyPatch.context() as patch:
        if not forward_mode:
            patch.setattr(Replayed, "pushed", lambda *_, **__: None)
        up, down = flat(linearised.through(fields.states)), flat(linearised.through_back(fields.costates))
    near = 1e-8 if forward_mode or not as_a_module else 1e-4
    torch.testing.assert_close(up, inverse @ flat(fields.states), rtol=near, atol=near)
    torch.testing.assert_close(down, inverse.T @ flat(fields.costates), rtol=1e-8, atol=1e-8)


@law(10)
@given(nets(max_depth=4))
def test_the_costs_curvature_is_its_hessian(net: Net) -> None:
    output = ws.relax(net.chain, net.x, net.target).states[-1]
    hessian = torch.autograd.functional.hessian(lambda y: net.loss(y, net.target), output)
    tangent = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    with linearise(net.chain, net.x, net.target) as linearised:
        (found,) = linearised.curved([tangent])
    wanted = (hessian.reshape(output.numel(), -1) @ tangent.flatten()).reshape(output.shape)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_the_residual_gain_is_the_largest_singular_value(depth: int) -> None:
    net = regression(stack(depth, activation=nn.ReLU))
    wanted = float(torch.linalg.matrix_norm(torch.eye(depth * 12) - dense_shift(net), 2))
    with linearise(net.chain, net.x, net.target) as linearised:
        found = residual_gain(linearised)
    assert 0.98 * wanted < found <= wanted * (1 + 1e-12)


def test_a_chain_of_identities_has_the_gain_of_a_string() -> None:
    """‖1 − N‖ = 2 cos(π/(2L + 1)), the highest mode of a string held at one end."""
    chain = ws.Chain([nn.Identity() for _ in range(6)], nn.MSELoss())
    x = torch.ones(2, 3, dtype=torch.float64)
    with linearise(chain, x, x) as linearised:
        assert residual_gain(linearised) == pytest.approx(2 * math.cos(math.pi / 13), rel=0.01)


def test_lanczos_finds_the_top_of_a_given_spectrum() -> None:
    values = torch.linspace(0, 3, 40, dtype=torch.float64)
    found = largest_eigenvalue(lambda v: (values * v[0],), (values,), tolerance=1e-12)
    assert found == pytest.approx(3.0, rel=1e-10)


class Once(torch.autograd.Function):
    """A user's function that torch cannot differentiate twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class Sine(nn.Module):
    """A layer made of it."""

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


def test_a_layer_without_second_derivative_is_pushed_by_differences() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), Sine()).double())
    tangent = torch.randn(3, 4, dtype=torch.float64)
    with linearise(net.chain, net.x, net.target) as linearised:
        up = linearised.ahead((tangent, torch.zeros_like(tangent)))[1]
        wanted = tangent * linearised.states[0].cos()
    torch.testing.assert_close(up, wanted, rtol=1e-8, atol=1e-8)


def test_looking_at_jacobians_leaves_no_trace() -> None:
    body = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), Residual(nn.Linear(4, 4), nn.ReLU(inplace=True))
    )
    net = regression(body.double(), batch=6)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    generator = torch.get_rng_state()
    with linearise(net.chain, net.x, net.target) as linearised:
        residual_gain(linearised)
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in body.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in body.parameters())


def test_a_dynamics_without_automatic_constants_is_calibrated_to_itself() -> None:
    net, dynamics = tanh_net(3), ws.Dyadic(0.5)
    assert ws.calibrate(net.chain, net.x, net.target, dynamics) is dynamics


class Half(torch.autograd.Function):
    """A function whose pull-back hides a half of itself from torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient + gradient.detach()


class Doubled(nn.Module):
    """A layer made of it."""

    def forward(self, x: Tensor) -> Tensor:
        return Half.apply(x)


def test_a_derivative_that_hides_a_part_is_found_out() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), Doubled()).double())
    tangent = torch.randn(3, 4, dtype=torch.float64)
    with linearise(net.chain, net.x, net.target) as linearised:
        up = linearised.ahead((tangent, torch.zeros_like(tangent)))[1]
    torch.testing.assert_close(up, 2 * tangent, rtol=1e-8, atol=1e-8)

"""The estimated step is the inverse of the energy's largest curvature, here from the dense Hessian."""

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import Net, regression, stack


def curvature(net: Net, precision: float, nudge: float | None) -> float:
    """The largest eigenvalue of the prediction energy's Hessian in the free states, per sample, at the forward pass.

    Curvature of layers, which multiplies the small slope of the cost, is left out by layers that are piecewise linear.
    """
    layers, samples = [layer.module for layer in net.chain.layers], len(net.x)
    states = list(ws.relax(net.chain, net.x, net.target).states)
    free = states[:-1] if nudge is None else states
    sizes = [state.numel() for state in free]

    def energy(flat: Tensor) -> Tensor:
        moved = [part.reshape(state.shape) for part, state in zip(flat.split(sizes), free, strict=True)]
        below = [net.x, *moved]
        errors = sum(
            ((layer(x) - y).square().sum() for layer, x, y in zip(layers, below, moved, strict=False)), 0 * flat[0]
        )
        output = layers[-1](below[-1]) if nudge is None else moved[-1]
        strength = 1.0 if nudge is None else nudge
        return 0.5 * precision * errors + strength * samples * net.loss(output, net.target)

    hessian = torch.autograd.functional.hessian(energy, torch.cat([state.flatten() for state in free]))
    return float(torch.linalg.eigvalsh(hessian)[-1])


@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize(("precision", "nudge"), [(1.0, None), (3.0, None), (1.0, 0.5)])
def test_it_is_one_over_the_largest_curvature(depth: int, precision: float, nudge: float | None) -> None:
    torch.manual_seed(depth)
    net = regression(stack(depth, activation=nn.ReLU))
    dynamics = ws.PredictiveCoding(precision=precision, nudge=nudge)
    found = ws.calibrate(net.chain, net.x, net.target, dynamics)
    assert isinstance(found, ws.PredictiveCoding)
    assert found.rate == pytest.approx(1 / curvature(net, precision, nudge), rel=0.02)


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


@pytest.mark.parametrize(("depth", "published"), [(8, 0.2095), (16, 0.2219), (32, 0.2343)])
def test_it_is_near_the_published_step_of_the_residual_mlp(depth: int, published: float) -> None:
    torch.manual_seed(0)
    chain = ws.Chain(ws.nn.residual_mlp(depth, 32), half_squares)
    x, target = torch.randn(8, 784), torch.eye(10)[:8]
    found = ws.calibrate(chain, x, target, ws.AugmentedLagrangian())
    assert isinstance(found, ws.AugmentedLagrangian)
    assert found.rate == pytest.approx(published, rel=0.05)

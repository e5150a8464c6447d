"""The output's boundary in scattering form: proximal steps of losses, and the same rest."""

import math

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, distance, exact, tanh_net
from worldsheet.layers import proximal


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_squared_error_has_its_closed_form(reduction: str) -> None:
    point, target = torch.randn(2, 4, 3, dtype=DOUBLE)
    k = 2 / (12 if reduction == "mean" else 1)
    found = proximal(lambda y: nn.MSELoss(reduction=reduction)(y, target), point, 0.7)
    torch.testing.assert_close(found, (point + 0.7 * k * target) / (1 + 0.7 * k), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", range(20))
def test_cross_entropy_solves_its_equation_by_the_softmax(seed: int) -> None:
    torch.manual_seed(seed)
    point, labels = 3 * torch.randn(4, 5, dtype=DOUBLE), torch.tensor([0, 4, 2, 2])
    y = proximal(lambda z: nn.functional.cross_entropy(z, labels, reduction="sum"), point, 8.0)
    slope = y.softmax(1) - nn.functional.one_hot(labels, 5)
    torch.testing.assert_close(y + 8.0 * slope, point, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("z", [0.1, 0.5, 5.0])
def test_the_scattered_wave_is_the_arriving_one_times_the_reflection_factor(z: float) -> None:
    """b = 2x − a with x + zkx = a."""
    k, a = 2.0, torch.randn(3, 4, dtype=DOUBLE)
    b = 2 * proximal(lambda x: k / 2 * x.square().sum(), a, z) - a
    torch.testing.assert_close(b, (1 - z * k) / (1 + z * k) * a, rtol=1e-12, atol=1e-13)


def test_a_loss_without_a_proximal_step_is_refused() -> None:
    def hill(y: Tensor) -> Tensor:
        return -y.square().sum()

    with pytest.raises(ws.errors.RelaxationError, match="proximal"):
        proximal(hill, torch.ones(3, dtype=DOUBLE), 1.0)


@pytest.mark.parametrize("limit", [0.25, math.inf])
def test_a_wave_with_a_proximal_output_rests_where_all_others_do(limit: float) -> None:
    net = tanh_net(4)
    wave = ws.Wave(limit=limit, output=ws.dynamics.Output.PROXIMAL)
    sol = ws.relax(net.chain, net.x, net.target, wave, stop=ws.Stop(max_ticks=300, tol=1e-10))
    assert sol.outcome.converged
    assert distance(sol.gradients(), exact(net)) < 1e-8

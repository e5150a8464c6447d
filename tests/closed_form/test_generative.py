"""Predictive coding with a free input infers what a linear Gaussian model's posterior says, and learns by its slope."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE
from worldsheet.dynamics import ErrorBasedCoding
from worldsheet_lab.data import load

REST = ws.Stop(max_ticks=20000, tol=1e-12, every=20)
PRECISIONS = (0.5, 2.0, 1.0)


class Opened(nn.Module):
    """The same network with a forward of its own."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.latent, self.hidden, self.head = layers

    def forward(self, x: Tensor) -> Tensor:
        """(batch, anything) to (batch, 6)."""
        made: Tensor = self.head(self.hidden(self.latent(x)))
        return made


def observed(mask: Tensor) -> Any:
    """Half squares of what is looked at."""
    return lambda output, target: 0.5 * ((output - target) * mask).square().sum(1).mean()


def network(learned: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(ws.nn.Latent(2, learned=learned), nn.Linear(2, 4), nn.Linear(4, 6)).to(DOUBLE)
    with torch.no_grad():
        net[0].get_parameter("mean").copy_(torch.tensor([[0.3, -0.7]]))
    return net


def posterior(net: nn.Sequential, data: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable z and hidden state, and the energy there, from the normal equations of a linear model."""
    mean, (w, b), (v, c) = net[0].get_parameter("mean"), net[1].parameters(), net[2].parameters()
    rho, tau = PRECISIONS[:2]
    seen = torch.diag(mask.square())
    # energy: rho/2 |z - mean|^2 + tau/2 |h - Wz - b|^2 + 1/2 |mask (y - Vh - c)|^2
    top = torch.cat([rho * torch.eye(2, dtype=DOUBLE) + tau * w.T @ w, -tau * w.T], 1)
    bottom = torch.cat([-tau * w, tau * torch.eye(4, dtype=DOUBLE) + v.T @ seen @ v], 1)
    rows = []
    for y in data:
        right = torch.cat([rho * mean[0] - tau * b @ w, tau * b + (y - c) @ seen @ v])
        rows.append(torch.linalg.solve(torch.cat([top, bottom]), right))
    z, h = torch.stack(rows).split([2, 4], 1)
    energy = 0.5 * rho * (z - mean).square().sum() + 0.5 * tau * (h - z @ w.T - b).square().sum()
    energy = energy + 0.5 * ((data - h @ v.T - c) * mask).square().sum()
    return z, h, energy / len(data)


@pytest.mark.parametrize("rule", [ws.PredictiveCoding, ErrorBasedCoding])
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("seen", [6, 3])
def test_the_rest_is_the_posterior_and_learning_its_slope(rule: Any, opened: bool, learned: bool, seen: int) -> None:
    net = network(learned)
    mask = torch.tensor([1.0] * seen + [0.0] * (6 - seen), dtype=DOUBLE)
    data = torch.randn(5, 6, dtype=DOUBLE)
    chain = ws.Chain(Opened(net) if opened else net, observed(mask), blocks=None)
    sol = ws.relax(chain, data, data, rule(precision=PRECISIONS), stop=REST)
    assert sol.outcome.converged, sol.outcome
    z, h, energy = posterior(net, data, mask)
    torch.testing.assert_close(sol.states[0], z.detach(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(sol.states[1], h.detach(), rtol=1e-8, atol=1e-9)
    named = {name: p for name, p in chain.named_parameters() if p.requires_grad}
    assert ("latent.mean" if opened else "0.mean") in named or not learned
    wanted = torch.autograd.grad(energy, list(named.values()))
    assert sol.gradients().keys() == named.keys()
    for found, slope in zip(sol.gradients().values(), wanted, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-8)


def test_it_recalls_the_half_of_a_digit_that_it_does_not_see() -> None:
    """Trained without labels; the lower half is filled in from the upper, better than by the mean of all digits.

    Linear regression of the lower half on the upper, which is trained for this question alone, is better still.
    """
    torch.manual_seed(0)
    data = load("digits")
    images, unseen = (part.flatten(1) for part in (data.train_images[:600], data.test_images[:200]))
    net = nn.Sequential(ws.nn.Latent(24), nn.Sequential(nn.Linear(24, 96), nn.Tanh()), nn.Linear(96, 64))
    chain = ws.Chain(net, ws.nn.HalfSquares())
    rule = ws.Calibration(ErrorBasedCoding())
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(12):
        for batch in images[torch.randperm(600)].split(50):
            optimizer.zero_grad()
            ws.backward(chain, batch, batch, rule, stop=ws.Stop(max_ticks=12))
            optimizer.step()
    mask = torch.ones(64)
    mask[32:] = 0
    half = ws.Chain(net, observed(mask))
    recalled = ws.relax(half, unseen * mask, unseen * mask, ErrorBasedCoding(), stop=ws.Stop(tol=1e-3))
    assert recalled.outcome.converged, recalled.outcome
    error = (recalled.states[-1] - unseen)[:, 32:].square().mean()
    mean = (images.mean(0) - unseen)[:, 32:].square().mean()
    assert error < 0.85 * mean


def test_no_size_is_refused() -> None:
    with pytest.raises(ws.errors.InputError, match="Latent: size must be"):
        ws.nn.Latent()

"""On graphs predictive coding rests where its energy is least, the augmented Lagrangian at backprop's gradient."""

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE


class Skips(nn.Module):
    """Residual layers, and around all of them a skip if asked for."""

    def __init__(self, *, around: bool, width: int = 3, depth: int = 1) -> None:
        super().__init__()
        self.around = around
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to (batch, width)."""
        start = x
        for layer in self.inner:
            x = x + torch.tanh(layer(x))
        out: Tensor = self.head(x + start if self.around else x)
        return out


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def problem(fuse: bool, seed: int = 2) -> tuple[ws.Chain, Tensor, Tensor]:
    torch.manual_seed(seed)
    chain = ws.Chain(Skips(around=not fuse, depth=2 if fuse else 1).to(DOUBLE), half_squares, fuse=fuse)
    x, target = 2 * torch.randn(2, 4, 3, dtype=DOUBLE)
    return chain, x, target


@pytest.mark.parametrize("fuse", [True, False])
def test_predictive_coding_rests_where_its_energy_is_least(fuse: bool) -> None:
    chain, x, target = problem(fuse)
    sol = ws.relax(chain, x, target, ws.PredictiveCoding(), stop=ws.Stop(max_ticks=2000, tol=1e-8, every=10))
    assert sol.outcome.converged, sol.outcome
    sites = chain.at(x)
    assert len(sites) > 2
    free = [state.clone().requires_grad_() for state in sol.states[:-1]]
    values = [x, *free]
    energy = torch.zeros((), dtype=DOUBLE)
    for site, layer in enumerate(sites.layers, start=1):
        predicted = layer.module(*[values[source] for source in sites.graph.sources(site)])
        if site < len(sites):
            energy = energy + half_squares(free[site - 1], predicted)
        else:
            energy = energy + half_squares(predicted, target)
    for slope in torch.autograd.grad(energy, free):
        assert slope.abs().max() < 1e-7


def test_multipliers_rest_at_backprops_gradient_on_residual_layers() -> None:
    chain, x, target = problem(fuse=True)
    sol = ws.relax(chain, x, target, ws.AugmentedLagrangian(), stop=ws.Stop(max_ticks=2000, tol=1e-8, every=10))
    assert sol.outcome.converged, sol.outcome
    assert ws.compare(chain, x, target, sol).relative_error < 1e-6


def test_a_curved_graph_needs_a_larger_penalty() -> None:
    """With a site for every addition the curvature of the Lagrangian outweighs ρ = 1; the outcome says what to do."""
    chain, x, target = problem(fuse=False)
    stop = ws.Stop(max_ticks=250, tol=1e-3, every=10)
    weak = ws.relax(chain, x, target, ws.AugmentedLagrangian(), stop=stop)
    assert not weak.outcome.converged
    assert "penalty" in str(weak.outcome)
    firm = ws.relax(chain, x, target, ws.AugmentedLagrangian(penalty=4.0), stop=stop)
    assert firm.outcome.converged, firm.outcome
    assert ws.compare(chain, x, target, firm).relative_error < 0.02

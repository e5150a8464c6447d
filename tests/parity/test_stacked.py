"""Equal sites moved as one give the numbers of sites moved one by one."""

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws

DYNAMICS = [ws.Dyadic(0.7), ws.Dyadic(), ws.Wave(0.5), ws.PredictiveCoding(), ws.AugmentedLagrangian()]


def squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def networks() -> dict[str, nn.Sequential]:
    torch.manual_seed(0)

    def turn(width: int, bias: bool = True) -> nn.Linear:
        linear = nn.Linear(width, width, bias=bias)  # norm-keeping, so that no dynamics is unstable behind a layer norm
        nn.init.orthogonal_(linear.weight)
        return linear

    shared = nn.Sequential(nn.Linear(5, 5), nn.Sigmoid())
    return {
        "mlp": nn.Sequential(
            nn.Linear(6, 5), nn.Tanh(), *[nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(5)], nn.Linear(5, 3)
        ),
        "residual": nn.Sequential(nn.Linear(6, 5), *[ws.ResidualLinear(5, 0.3) for _ in range(4)], nn.Linear(5, 3)),
        "tied": nn.Sequential(nn.Linear(6, 5), shared, shared, shared, nn.Linear(5, 3)),
        "two runs": nn.Sequential(
            *[turn(6, bias=False) for _ in range(3)],
            nn.LayerNorm(6),
            *[nn.Sequential(turn(6), nn.ReLU()) for _ in range(3)],
            nn.Linear(6, 3),
        ),
    }


@pytest.mark.parametrize("name", list(networks()))
@pytest.mark.parametrize("dynamics", DYNAMICS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("ticks", [1, 6, 25])
def test_stacked_equals_unstacked(name: str, dynamics: ws.Dynamics, ticks: int) -> None:
    chain = ws.Chain(networks()[name].double(), squares)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 3, dtype=torch.float64)
    schedule = None if dynamics.character.leads else ws.Synchronous()
    one, many = (
        ws.relax(chain, x, target, dynamics, schedule, ws.Stop(max_ticks=ticks), ws.Record(), stack=stack)
        for stack in (True, False)
    )
    assert one.record is not None and many.record is not None
    pairs = [*zip(one.states + one.costates, many.states + many.costates, strict=True)]
    pairs += [(gradient, many.gradients()[name]) for name, gradient in one.gradients().items()]
    pairs += [(one.input_gradient, many.input_gradient)]
    pairs += [(one.record.state_residuals, many.record.state_residuals)]
    pairs += [(one.record.costate_residuals, many.record.costate_residuals)]
    for ours, theirs in pairs:
        assert float((ours - theirs).norm()) <= 1e-9 * float(theirs.norm()) + 1e-14


@pytest.mark.parametrize("activation", ws.Nonlinearity)
def test_a_residual_layers_closed_form_is_autograds(activation: ws.Nonlinearity) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(*[ws.ResidualLinear(4, 0.4, activation) for _ in range(3)]).double()
    chain = ws.Chain(model, squares)
    x, target = torch.randn(2, 6, 4, dtype=torch.float64)
    for schedule in (ws.Wavefront(), ws.Synchronous()):
        sol = ws.relax(chain, x, target, schedule=schedule)
        assert ws.compare(chain, x, target, sol).relative_error < 1e-13


@pytest.mark.parametrize("activation", ws.Nonlinearity)
def test_the_residual_mlp_is_the_network_of_its_formula(activation: ws.Nonlinearity) -> None:
    torch.manual_seed(1)
    model = ws.residual_mlp(4, 6, activation, inputs=9, classes=3).double()
    phi = {"LINEAR": lambda z: z, "TANH": torch.tanh, "RELU": torch.relu}[activation.name]
    x, target = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    first, one, two, last = (layer.weight for layer in model)
    z = x @ first.t() / 9**0.5
    for weight in (one, two):
        z = z + phi(z) @ weight.t() / (6 * 4) ** 0.5
    torch.testing.assert_close(model(x), phi(z) @ last.t() / 6, rtol=1e-13, atol=1e-13)
    chain = ws.Chain(model, squares)
    assert ws.compare(chain, x, target, ws.relax(chain, x, target)).relative_error < 1e-13

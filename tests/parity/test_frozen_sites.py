"""Sites below which nothing is trained move in a step of training as they do in a relaxation that is looked at."""

import warnings

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import DOUBLE, assert_gradients, asynchronous, stack
from worldsheet.dynamics import ErrorBasedCoding

RULES = {
    "pc": ws.PredictiveCoding(0.2),
    "pc-alm": ws.AugmentedLagrangian(0.2, 0.5),
    "epc": ErrorBasedCoding(0.3),
    "dyadic": ws.Dyadic(0.7),
}


def assert_same(chain: ws.Chain, x: torch.Tensor, target: torch.Tensor, rule: str, *, late: bool) -> None:
    stop = ws.Stop(max_ticks=20)
    one, other = (asynchronous(3, 0) if late else None for _ in range(2))
    wanted = ws.relax(chain, x, target, RULES[rule], schedule=one, stop=stop, stack=False).gradients()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ws.errors.NotConvergedWarning)
        ws.backward(chain, x, target, RULES[rule], schedule=other, stop=stop)
    found = {name: p.grad for name, p in chain.named_parameters() if p.grad is not None}
    assert_gradients(found, wanted, tol=1e-10)


@pytest.mark.parametrize(
    ("rule", "late"),
    [*((rule, False) for rule in RULES), *((rule, True) for rule in RULES if rule != "epc")],  # which moves all at once
)
def test_frozen_layers_at_the_bottom(rule: str, late: bool) -> None:
    torch.manual_seed(0)
    net = stack(5)
    net[0].requires_grad_(False)
    net[1].requires_grad_(False)
    x, target = torch.randn(3, 4, dtype=DOUBLE), torch.tensor([0, 3, 1])
    assert_same(ws.Chain(net, nn.CrossEntropyLoss()), x, target, rule, late=late)


@pytest.mark.parametrize("rule", ["pc", "pc-alm", "epc"])
def test_a_latent_variable_whose_prior_is_not_trained_is_inferred_in_training(rule: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(ws.nn.Latent(2, learned=False), nn.Linear(2, 4), nn.Linear(4, 6)).to(DOUBLE)
    data = torch.randn(5, 6, dtype=DOUBLE)
    chain = ws.Chain(net, ws.nn.HalfSquares())
    assert float(ws.relax(chain, data, data, RULES[rule], stop=ws.Stop(max_ticks=20)).states[0].norm()) > 0.1
    assert_same(chain, data, data, rule, late=False)

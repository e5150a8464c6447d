"""Ports are the optimizers they are said to be, and report what they reflect."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import worldsheet as ws

PAIRS: dict[str, tuple[Callable[..., torch.optim.Optimizer], Callable[..., torch.optim.Optimizer]]] = {
    "resistive": (lambda p: ws.ports.Resistive(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "inertial": (lambda p: ws.ports.Inertial(p, lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_a_port_is_its_optimizer_to_the_last_bit(name: str) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    theirs = copy.deepcopy(ours)
    port, optimizer = PAIRS[name][0](ours.parameters()), PAIRS[name][1](theirs.parameters())
    fading = [torch.optim.lr_scheduler.StepLR(o, 20, 0.5) for o in (port, optimizer)]
    for _ in range(60):
        x = torch.randn(7, 5)
        for model, mover in ((ours, port), (theirs, optimizer)):
            mover.zero_grad()
            ws.backward(ws.Chain(model, nn.MSELoss()), x, x[:, :3])
            mover.step()
        for scheduler in fading:
            scheduler.step()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_a_resistive_port_reflects_nothing() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    port = ws.ports.Resistive([weight], lr=0.25)
    weight.grad = torch.tensor([3.0, 4.0])
    port.step()
    assert port.reflected_power == 0
    assert port.incident_power == pytest.approx(4 * 25 / (2 / 0.25))  # |2e|²/(2R)


def test_an_inertial_port_reflects_what_its_mass_takes_up_and_less_as_the_flow_settles() -> None:
    weight = nn.Parameter(torch.zeros(1))
    port = ws.ports.Inertial([weight], lr=0.1, momentum=0.5)  # m = 10, R = 5
    weight.grad = torch.ones(1)
    powers = []
    for _ in range(30):
        port.step()
        powers.append(port.reflected_power)
    assert powers[0] == pytest.approx((1 - 5 * 0.1) ** 2 / 10)  # first flow −0.1
    assert powers[1] == pytest.approx((1 - 5 * 0.15) ** 2 / 10)
    assert powers[-1] < 1e-12


def test_a_port_resumes_from_its_state() -> None:
    weight, twin = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    port, other = ws.ports.Inertial([weight], lr=0.1), ws.ports.Inertial([twin], lr=0.1)
    weight.grad = torch.arange(3.0)
    port.step()
    other.load_state_dict(copy.deepcopy(port.state_dict()))
    twin.data.copy_(weight)
    twin.grad = weight.grad.clone()
    port.step()
    other.step()
    assert torch.equal(weight, twin)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_no_conductance_is_refused(rate: float) -> None:
    with pytest.raises(ws.errors.InputError, match="Resistive: lr must be"):
        ws.ports.Resistive([nn.Parameter(torch.ones(1))], lr=rate)


def test_a_momentum_without_resistance_is_refused() -> None:
    with pytest.raises(ws.errors.InputError, match=r"momentum must be at least 0 and below 1, got 1\.0"):
        ws.ports.Inertial([nn.Parameter(torch.ones(1))], lr=0.1, momentum=1.0)

"""Unlocked training is three fields that move at once: against a literal loop, one autograd call per layer."""

import copy
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, autograd, grad


def networks() -> dict[str, nn.Sequential]:
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    made = {
        "closed forms": nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)], nn.Linear(4, 3)),
        "recorded": nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.GELU()), nn.LayerNorm(5), nn.Linear(5, 3)),
        "tied": nn.Sequential(shared, nn.Sigmoid(), shared, nn.Linear(4, 3)),
    }
    return {name: module.to(DOUBLE) for name, module in made.items()}


def batch(seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, dtype=DOUBLE, generator=generator), torch.randn(6, 3, dtype=DOUBLE, generator=generator)


def messages(module: nn.Sequential, x: Tensor, target: Tensor, states: list[Tensor], costates: list[Tensor]) -> Any:
    """Predictions, pulled-back costates and efforts of every layer at one moment."""
    predictions, pulled = [], []
    efforts: dict[nn.Parameter, Tensor] = {}
    for layer, below, costate in zip(module, [x, *states[:-1]], costates, strict=True):
        point, parameters = below.detach().requires_grad_(), list(layer.parameters())
        output = layer(point)
        first, *rest = torch.autograd.grad(output, [point, *parameters], costate)
        predictions.append(output.detach())
        pulled.append(first)
        for parameter, effort in zip(parameters, rest, strict=True):
            efforts[parameter] = efforts[parameter] + effort if parameter in efforts else effort
    top = states[-1].detach().requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.mse_loss(top, target), top)
    return predictions, [*pulled[1:], slope], efforts


Moves = Callable[[list[Tensor], list[Tensor], Callable[[], Any]], tuple[list[Tensor], list[Tensor]]]


def dyadic(rate: float, states: list[Tensor], costates: list[Tensor], read: Callable[..., Any]) -> Any:
    predictions, pulled, _ = read(states, costates)
    return [x + rate * (f - x) for x, f in zip(states, predictions, strict=True)], [
        c + rate * (p - c) for c, p in zip(costates, pulled, strict=True)
    ]


def wave(g: float, v: float, z: float, states: list[Tensor], costates: list[Tensor], read: Callable[..., Any]) -> Any:
    f, p, _ = read(states, costates)
    states = [s + g * (a - s) - v * z * (b - c) for s, c, a, b in zip(states, costates, f, p, strict=True)]
    f, p, _ = read(states, costates)
    return states, [c + g * (b - c) + v / z * (a - s) for s, c, a, b in zip(states, costates, f, p, strict=True)]


def literal(module: nn.Sequential, port: torch.optim.Optimizer, moves: Any, ticks: int, x: Tensor, y: Tensor) -> Any:
    """K ticks of (M), fields from zero."""
    with torch.no_grad():
        states = [torch.zeros_like(module[: end + 1](x)) for end in range(len(module))]
    costates = [torch.zeros_like(state) for state in states]
    read = partial(messages, module, x, y)
    for _ in range(ticks):
        efforts = read(states, costates)[2]
        states, costates = moves(states, costates, read)
        for parameter, effort in efforts.items():
            parameter.grad = effort if bool(effort.any()) else None
        port.step()
    return states, costates


WAVE = ws.Wave(
    speed=0.5, impedance=0.7, matching=2 / 3, limit=inf, courant=ws.dynamics.Courant.TRUST, averaged=False
)  # cos, sin of π/6
DYNAMICS: dict[str, tuple[ws.dynamics.Dynamics, Any]] = {
    "dyadic": (ws.Dyadic(), partial(dyadic, 1.0)),
    "slow dyadic": (ws.Dyadic(0.6), partial(dyadic, 0.6)),
    "wave": (WAVE, partial(wave, 0.5 * 3**0.5 / 2, 0.25, 0.7)),
}
PORTS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "resistive": partial(ws.ports.Resistive, lr=0.3),
    "inertial": partial(ws.ports.Inertial, lr=0.05),
    "adam": partial(torch.optim.Adam, lr=0.02),
}


@pytest.mark.parametrize("net", list(networks()))
@pytest.mark.parametrize("dynamics", list(DYNAMICS))
@pytest.mark.parametrize("port", list(PORTS))
def test_every_tick_moves_all_three_fields_as_the_literal_loop_does(net: str, dynamics: str, port: str) -> None:
    ours, (x, y) = networks()[net], batch()
    theirs, begun = copy.deepcopy(ours), copy.deepcopy(ours)
    made, moves = DYNAMICS[dynamics]
    schedule = ws.Leapfrog() if made.character.leads else ws.Synchronous()
    chain = ws.Chain(ours, nn.functional.mse_loss)
    held = ws.unlocked(chain, x, y, PORTS[port](ours.parameters()), made, ticks=13, schedule=schedule)
    states, costates = literal(theirs, PORTS[port](theirs.parameters()), moves, 13, x, y)
    for mine, other in zip([*held.fields.states, *held.fields.costates], [*states, *costates], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13)
    for mine, other, start in zip(ours.parameters(), theirs.parameters(), begun.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13)
        assert float((mine - start).detach().norm()) > 1e-4


class OnlyAtLast(torch.optim.SGD):
    """A port that stands still but for every `period`-th tick."""

    def __init__(self, params: Any, lr: float, period: int) -> None:
        super().__init__(params, lr)
        self.period, self.count = period, 0

    def step(self, closure: Any = None) -> Any:
        self.count += 1
        if self.count % self.period == 0:
            super().step()


@pytest.mark.parametrize("net", list(networks()))
def test_a_port_that_waits_for_the_fields_is_training_at_rest_to_the_last_bit(net: str) -> None:
    ours = networks()[net]
    theirs, ticks = copy.deepcopy(ours), 2 * len(ours) + 1
    port, optimizer = OnlyAtLast(ours.parameters(), 0.1, ticks), torch.optim.SGD(theirs.parameters(), 0.1)
    for seed in range(4):
        x, y = batch(seed)
        ws.unlocked(ws.Chain(ours, nn.functional.mse_loss), x, y, port, ticks=ticks)
        optimizer.zero_grad()
        ws.backward(ws.Chain(theirs, nn.functional.mse_loss), x, y)
        optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    "dynamics", [ws.Dyadic(), ws.Wave(0.5, 1.0), ws.PredictiveCoding(0.2), ws.AugmentedLagrangian(0.2)]
)
def test_carried_fields_go_on_where_they_were(dynamics: ws.dynamics.Dynamics) -> None:
    one, (x, y) = networks()["closed forms"], batch()
    two = copy.deepcopy(one)
    chains = [ws.Chain(module, nn.functional.mse_loss) for module in (one, two)]
    ports = [torch.optim.SGD(module.parameters(), 0.05) for module in (one, two)]
    schedule = ws.Synchronous() if dynamics.character.leads is None else ws.Leapfrog(dynamics.character.leads)
    whole = ws.unlocked(chains[0], x, y, ports[0], dynamics, ticks=12, schedule=schedule)
    first = ws.unlocked(chains[1], x, y, ports[1], dynamics, ticks=5, schedule=schedule)
    second = ws.unlocked(chains[1], x, y, ports[1], dynamics, ticks=7, schedule=schedule, initial=first.fields)
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(whole.loss, second.loss)


def _effort(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def test_from_silence_every_effort_is_backprops_and_arrives_when_the_front_does() -> None:
    net, (x, y) = networks()["closed forms"], batch()
    depth = len(net)
    wanted = autograd(net, nn.functional.mse_loss, x, y)
    seen: list[dict[str, Tensor]] = []

    class Still(torch.optim.SGD):
        """Looks and does not move."""

        def step(self, closure: Any = None) -> Any:
            seen.append({name: _effort(parameter) for name, parameter in net.named_parameters()})

    ws.unlocked(ws.Chain(net, nn.functional.mse_loss), x, y, Still(net.parameters(), 0.1), ticks=2 * depth + 3)
    silent = {
        id(p): group["silent"] for group in ws.ports.by_site(ws.Chain(net, nn.MSELoss())) for p in group["params"]
    }
    for tick, efforts in enumerate(seen):  # read before tick + 1
        for name, effort in efforts.items():
            arrived = tick >= 2 * depth - int(name.split(".")[0])
            assert arrived == (tick >= silent[id(net.get_parameter(name))])
            torch.testing.assert_close(effort, wanted[name] if arrived else torch.zeros_like(effort))


def test_the_second_sweep_reads_backprops_gradient() -> None:
    ours, (x, y) = networks()["recorded"], batch()
    wanted = autograd(ours, nn.functional.mse_loss, x, y)
    before = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    port = ws.ports.Resistive(ours.parameters(), lr=0.1)
    held = ws.unlocked(ws.Chain(ours, nn.functional.mse_loss), x, y, port, ticks=2, schedule=ws.Sweep(count=None))
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * wanted[name], rtol=1e-12, atol=1e-14)
        assert parameter.grad is None
    assert held.outcome.status is ws.Status.BUDGET_SPENT


def test_statistics_move_once_a_batch_and_one_mask_serves_it() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).to(DOUBLE)
    twin, (x, y) = copy.deepcopy(module), batch()
    ticks = 2 * len(module) + 1
    torch.manual_seed(7)
    ws.unlocked(
        ws.Chain(module, nn.functional.mse_loss), x, y, OnlyAtLast(module.parameters(), 0.1, ticks), ticks=ticks
    )
    torch.manual_seed(7)
    ws.backward(ws.Chain(twin, nn.functional.mse_loss), x, y)
    torch.optim.SGD(twin.parameters(), 0.1).step()
    assert int(module.get_buffer("1.num_batches_tracked")) == 1
    torch.testing.assert_close(module.state_dict(), twin.state_dict(), rtol=1e-12, atol=1e-14)


def test_parameters_that_the_port_does_not_hold_stay_and_keep_their_grad() -> None:
    module, (x, y) = networks()["closed forms"], batch()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    held = module.get_parameter("0.0.weight")
    held.grad = torch.ones(4, 4, dtype=DOUBLE)
    ws.unlocked(ws.Chain(module, nn.functional.mse_loss), x, y, torch.optim.SGD(module[-1].parameters(), 0.1))
    moved = [not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True)]
    assert moved == [False] * 8 + [True] * 2
    assert torch.equal(grad(held), torch.ones(4, 4, dtype=DOUBLE))


@pytest.mark.parametrize("ticks", [1, 4, 32])
def test_rates_per_tick_leave_resistance_and_inertia_as_they_were(ticks: int) -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=DOUBLE))
    port = ws.ports.per_tick(ws.ports.Inertial([weight], lr=0.2, momentum=0.6), ticks)
    (group,) = port.param_groups
    assert port.resistance(group) == pytest.approx(ticks * 0.4 / 0.2)  # R, for a flow per tick instead of per batch
    assert 1 / group["lr"] == pytest.approx(ticks**2 / 0.2)  # m, likewise
    weight.grad = torch.tensor([1.0, -3.0], dtype=DOUBLE)
    for _ in range(60 * ticks):
        port.step()
    settled = weight.detach().clone()
    for _ in range(ticks):
        port.step()
    torch.testing.assert_close(weight.detach() - settled, -0.2 / 0.4 * weight.grad, rtol=1e-9, atol=0)


def test_efforts_that_are_silent_for_a_while_stand_for_the_whole_batch() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=DOUBLE))
    for port, silent in ((ws.ports.Resistive([weight], lr=0.3), 5), (torch.optim.SGD([weight], 0.2, 0.6), 5)):
        weight.data.zero_()
        ws.ports.per_tick(port, 8, silent)
        rate = 0.3 if isinstance(port, ws.ports.Resistive) else 0.2 / 0.4
        for tick in range(300):
            weight.grad = torch.full_like(weight, float(tick < 8 - silent))
            port.step()
        assert float(weight.detach()) == pytest.approx(-rate)


def test_adams_averages_forget_as_much_in_a_batch_of_ticks_as_in_a_step() -> None:
    port = ws.ports.per_tick(torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=0.1), 10)
    assert port.param_groups[0]["lr"] == pytest.approx(0.01)
    assert port.param_groups[0]["betas"] == pytest.approx((0.99, 0.9999))

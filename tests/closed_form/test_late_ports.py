"""A stage on a parabola is a delay equation: its roots say how fast it rings down, and where it begins to ring up."""

from collections.abc import Callable
from functools import partial
from math import pi, sin
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import law
from worldsheet.pipeline import Unlocked, Weights
from worldsheet.pipeline.update_rule import MakeScheduler

CURVATURE = 0.8


class Inlet(nn.Module):
    """A state that is its one parameter: the loss is a parabola of it."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.level


def course(
    delay: int,
    weights: Weights,
    make: Callable[..., torch.optim.Optimizer],
    updates: int,
    scheduler: MakeScheduler | None = None,
) -> list[float]:
    """The parameter of the first of d + 1 stages after every update, the later ones having none."""
    net = nn.Sequential(Inlet(), *(nn.Identity() for _ in range(delay)))
    levels: list[float] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return CURVATURE / 2 * output.square().sum()

    chain, order = ws.Chain(net, loss), Unlocked(1)
    pipeline = ws.Pipeline(chain, delay + 1, optimizer=make, weights=weights, schedule=order, scheduler=scheduler)
    inlet = net[0]
    assert isinstance(inlet, Inlet)
    original = pipeline.stages[0].update

    def watched() -> None:
        original()
        levels.append(inlet.level.item())

    nothing = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.stages[0], "update", watched)
        pipeline.train([(nothing, nothing)] * updates)
    return levels


def equation(gain: float, momentum: float, delay: int, horizon: float, updates: int) -> list[float]:
    """v ← μ v + g (θ + h(θ − θ_before))(t − d), θ ← θ − v, at rest at 1 before the first update."""
    levels, flow = [1.0, 1.0], 0.0
    for update in range(updates):
        seen = max(update - delay, 0) + 1
        flow = momentum * flow + gain * (levels[seen] + horizon * (levels[seen] - levels[seen - 1]))
        levels.append(levels[-1] - flow)
    return levels[2:]


def envelope(levels: list[float], begin: int, end: int) -> float:
    return max(abs(level) for level in levels[begin:end])


def roots(gain: float, momentum: float, delay: int, horizon: float) -> Tensor:
    """(P5): z^d (z − 1)(z − μ) + g (z + h(z − 1)) with g = lr c, of v ← μ v + c θ(t − d) foreseen, θ ← θ − lr v."""
    coefficients = torch.zeros(delay + 3, dtype=torch.float64)
    coefficients[0], coefficients[1], coefficients[2] = 1.0, -(1 + momentum), momentum
    coefficients[delay + 1] += gain * (1 + horizon)
    coefficients[delay + 2] -= gain * horizon
    companion = torch.diag(torch.ones(delay + 1, dtype=torch.float64), -1)
    companion[0] = -coefficients[1:]
    return torch.linalg.eigvals(companion).abs()


def bound(momentum: float, delay: int, horizon: float) -> float:
    low, high = 0.0, 2 * (1 + momentum)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if roots(middle, momentum, delay, horizon).max() < 1 else (low, middle)
    return low


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_stage_without_mass_and_foresight_is_the_delay_equation(delay: int) -> None:
    expected = equation(0.3 * CURVATURE, 0.0, delay, 0.0, 20)
    assert course(delay, ws.pipeline.Current(), partial(torch.optim.SGD, lr=0.3), 20) == pytest.approx(
        expected, abs=1e-13
    )


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_a_passive_stage_is_the_delay_equation_of_its_mass_and_foresight(delay: int) -> None:
    longer = 1 + delay
    expected = equation(0.03 / longer**1.5 * CURVATURE, 1 - 0.1 / longer, delay, 2 * delay, 30)
    found = course(delay, ws.pipeline.DelayCompensated(), partial(torch.optim.SGD, lr=0.03, momentum=0.9), 30)
    assert found == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("delay", [0, 1, 3, 6])
def test_without_mass_and_foresight_a_late_port_rings_beyond_the_sine_of_its_delay(delay: int) -> None:
    limit = 2 * sin(pi / (2 * (2 * delay + 1)))
    assert bound(0.0, delay, 0.0) == pytest.approx(limit, rel=1e-6)
    below, beyond = (equation(share * limit, 0.0, delay, 0.0, 400) for share in (0.95, 1.05))
    assert envelope(below, 300, 400) < 0.6 * envelope(below, 0, 100)
    assert envelope(beyond, 300, 400) > 1.6 * envelope(beyond, 0, 100)


@given(share=st.floats(0.02, 0.98), delay=st.integers(0, 40))
@law(60)
def test_a_massless_port_with_the_resistance_of_its_delay_rings_down_below_half_pi(share: float, delay: int) -> None:
    port = ws.ports.delayed(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=share * pi / 2), float(delay))
    assert roots(port.param_groups[0]["lr"], 0.0, delay, 0.0).max() < 1


@pytest.mark.parametrize("delay", [1, 3, 7])
def test_a_heavy_foreseeing_port_rings_up_beyond_its_bound(delay: int) -> None:
    heavy = 1 - 0.1 / (1 + delay)
    limit = bound(heavy, delay, 2 * delay)
    below, beyond = (equation(share * limit, heavy, delay, 2 * delay, 1200) for share in (0.95, 1.05))
    assert envelope(below, 1000, 1200) < 0.7 * envelope(below, 200, 400)
    assert envelope(beyond, 1000, 1200) > 1.4 * envelope(beyond, 200, 400)


@pytest.mark.parametrize("delay", [3, 7, 15])
def test_mass_and_foresight_raise_the_bound_only_together(delay: int) -> None:
    """1/R times curvature that a port bears: lr c/(1 − μ)."""
    light, heavy = 0.9, 1 - 0.1 / (1 + delay)
    plain, massive, foreseen, both = (
        bound(mu, delay, horizon) / (1 - mu)
        for mu, horizon in ((light, 0), (heavy, 0), (light, 2 * delay), (heavy, 2 * delay))
    )
    assert massive < 1.05 * plain
    assert foreseen < 2 * plain
    assert both > 3 * plain


@pytest.mark.parametrize("delay", [0, 1, 4, 6])
@pytest.mark.parametrize("horizon", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_late_relay_swings_as_far_as_it_foresees_too_little_or_too_much(delay: int, horizon: float) -> None:
    """(P7): Muon on a matrix of one entry goes at one speed; how far it swings does not depend on the curvature."""
    pace = moved_once(torch.optim.Muon([nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))], **RELAY))
    found = torch.tensor(course(delay, ws.pipeline.Predicted(horizon), partial(torch.optim.Muon, **RELAY), 400))
    swing = found[200:] / pace
    assert swing.min() == pytest.approx(-(1 - horizon) * delay, abs=1)
    assert swing.max() == pytest.approx(max(horizon, 1 - horizon) * delay, abs=1)


RELAY: dict[str, Any] = {"lr": 0.02, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


def moved_once(port: torch.optim.Optimizer) -> float:
    """The size of a step."""
    (weight,) = port.param_groups[0]["params"]
    weight.grad = torch.ones_like(weight)
    port.step()
    return float(weight.detach().norm())


SQUARE = [nn.Parameter(torch.zeros(4, 4))]
HEAVY = {
    "SGD": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
    "SGD, damped": partial(torch.optim.SGD, lr=0.02, momentum=0.9, dampening=0.5),
    "SGD, Nesterov": partial(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True),
    "Inertial": partial(ws.ports.Inertial, lr=0.02, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=0.02),
    "AdamW": partial(torch.optim.AdamW, lr=0.02, weight_decay=0.0),
    "Muon": partial(torch.optim.Muon, lr=0.02, momentum=0.9, weight_decay=0.0),
    "Muon without Nesterov": partial(torch.optim.Muon, lr=0.02, momentum=0.9, weight_decay=0.0, nesterov=False),
    "centred": lambda p: ws.ports.BiasCentered(torch.optim.SGD(p, lr=0.02, momentum=0.9), []),
}


def speed(port: torch.optim.Optimizer) -> float:
    """What a constant effort settles at, after many times the longest memory of momentum here."""
    (weight,) = port.param_groups[0]["params"]
    effort = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    before = weight.detach().clone()
    for _ in range(1500):
        before.copy_(weight.detach())
        weight.grad = effort.clone()
        port.step()
    return float((weight.detach() - before).norm())


@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.parametrize("delay", [1.0, 7.0])
def test_a_late_port_with_mass_settles_slower_by_the_root_of_its_delay(name: str, delay: float) -> None:
    def fresh() -> torch.optim.Optimizer:
        return HEAVY[name]([nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))])  # type: ignore[operator]

    assert speed(ws.ports.delayed(fresh(), delay)) == pytest.approx(speed(fresh()) / (1 + delay) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("name", HEAVY)
def test_a_port_that_moves_more_often_settles_at_its_share_a_tick(name: str) -> None:
    def fresh() -> torch.optim.Optimizer:
        return HEAVY[name]([nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))])  # type: ignore[operator]

    assert speed(ws.ports.per_tick(fresh(), 5)) == pytest.approx(speed(fresh()) / 5, rel=1e-3)


def moved(port: torch.optim.Optimizer) -> Tensor:
    """Where some efforts bring a parameter."""
    (weight,) = port.param_groups[0]["params"]
    for seed in range(5):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=weight.dtype)
        port.step()
    found: Tensor = weight.detach()
    return found


def test_a_late_stage_of_muon_remembers_longer_and_slows_by_the_root() -> None:
    (one, other) = (nn.Parameter(torch.zeros(4, 4, dtype=torch.float64)) for _ in range(2))
    muon = partial(torch.optim.Muon, weight_decay=0.0)
    late = ws.pipeline.DelayCompensated().port(muon([one], lr=0.02, momentum=0.95), [], 7.0)
    assert torch.equal(moved(late), moved(muon([other], lr=0.02 / 8 * 8**0.5, momentum=1 - (1 - 0.95) / 8)))
    assert (late.param_groups[0]["lr"], late.param_groups[0]["momentum"]) == (0.02, 0.95)


@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.parametrize("delay", [0.0, 0.75, 7.0])
def test_a_port_that_is_late_only_while_it_steps_moves_as_one_that_is_delayed(name: str, delay: float) -> None:
    def fresh() -> torch.optim.Optimizer:
        return HEAVY[name]([nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))])  # type: ignore[operator]

    late, rates = fresh(), fresh().param_groups[0]
    assert torch.equal(moved(ws.ports.Slowed(late, delay)), moved(ws.ports.delayed(fresh(), delay)))
    assert all(late.param_groups[0][key] == rates[key] for key in ("lr", "momentum", "betas") if key in rates)


def test_each_of_several_optimizers_is_slowed_by_its_own_rule() -> None:
    makes = [HEAVY["SGD"], HEAVY["AdamW"], HEAVY["Muon"]]
    mine, twins = ([nn.Parameter(torch.zeros(4, 4, dtype=torch.float64)) for _ in makes] for _ in range(2))
    pairs = [(make, [weight]) for make, weight in zip(makes, mine, strict=True)]
    together = ws.ports.Slowed(ws.ports.Joined(*pairs), 3.0)  # type: ignore[arg-type]
    apart = [ws.ports.delayed(make([weight]), 3.0) for make, weight in zip(makes, twins, strict=True)]  # type: ignore[operator]
    for seed in range(4):
        for weight, twin in zip(mine, twins, strict=True):
            weight.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            twin.grad = weight.grad.clone()
        together.step()
        for port in apart:
            port.step()
    assert all(torch.equal(weight, twin) for weight, twin in zip(mine, twins, strict=True))


def test_a_rate_that_is_a_tensor_is_not_written_into() -> None:
    rate = torch.tensor(0.02)
    late = ws.ports.Slowed(torch.optim.Adam([nn.Parameter(torch.zeros(4, 4))], lr=rate, capturable=False), 3.0)
    moved(late)
    assert late.param_groups[0]["lr"] is rate
    assert rate == 0.02


def one_cycle(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Sets rates and momenta, whatever they were."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=40)


def cosine(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Ends at a rate of its own."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.01)


def warmed(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Multiplies."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / 10))


@pytest.mark.parametrize("scheduler", [one_cycle, cosine, warmed])
@pytest.mark.parametrize("delay", [0, 1, 4])
def test_a_schedule_of_rates_is_the_one_without_delay_and_the_stage_is_slowed_beside_it(
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler], delay: int
) -> None:
    single = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.03, momentum=0.9)
    rates, longer = scheduler(single), 1 + delay
    levels, flow = [1.0, 1.0], 0.0
    for update in range(30):
        group = single.param_groups[0]
        seen = max(update - delay, 0) + 1
        ahead = levels[seen] + 2 * delay * (levels[seen] - levels[seen - 1])
        flow = (1 - (1 - group["momentum"]) / longer) * flow + CURVATURE * ahead
        levels.append(levels[-1] - group["lr"] / longer**1.5 * flow)
        single.step()
        rates.step()
    make = partial(torch.optim.SGD, lr=0.03, momentum=0.9)
    found = course(delay, ws.pipeline.DelayCompensated(), make, 30, scheduler)
    assert found == pytest.approx(levels[2:], abs=1e-13)


def test_a_momentum_of_unknown_meaning_is_refused() -> None:
    class Own(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(SQUARE, {"lr": 0.1, "momentum": 0.9})

    with pytest.raises(ws.errors.InputError, match="sums efforts or averages them"):
        ws.ports.delayed(Own(), 1.0)


def test_memory_and_resistance_of_a_delay_in_optimizers() -> None:
    weight = [nn.Parameter(torch.ones(1))]
    adam = ws.ports.delayed(torch.optim.AdamW(weight, lr=0.2, betas=(0.9, 0.99)), 3.0).param_groups[0]
    assert adam["lr"] == pytest.approx(0.1)
    assert adam["betas"] == pytest.approx((0.975, 0.9975))
    mass = ws.ports.delayed(ws.ports.Inertial(weight, lr=0.2, momentum=0.6), 3.0)
    assert mass.resistance(mass.param_groups[0]) == pytest.approx(2 * 0.4 / 0.2)  # R ← √(1 + d) R
    assert 1 - mass.param_groups[0]["momentum"] == pytest.approx(0.4 / 4)
    assert ws.ports.delayed(torch.optim.SGD(weight, lr=0.3), 1.0).param_groups[0]["lr"] == pytest.approx(0.15)

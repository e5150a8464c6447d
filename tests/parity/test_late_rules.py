"""Rules against staleness against a pipeline written out literally, with backpropagation by hand: the same weights."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import worldsheet as ws
from worldsheet.pipeline import Current, DelayBounded, Predicted, StalenessAware, Stashed, Unlocked, Weights

Pair: TypeAlias = tuple[Tensor, Tensor]
"""A weight and a bias."""

STAGES = 4
COURSE = (0.5, 1.0, 1.0, 0.9, 0.6, 0.4, 0.7, 0.2, 0.1)
"""The rates of the updates, in units of the optimizer's own."""


def scheduler(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda update: COURSE[min(update, len(COURSE) - 1)])


@dataclass(frozen=True)
class Written:
    """A rule in plain terms: how far packets look ahead, in delays, and the rate at d and an update, of some power.

    A late layer that is centred moves its weight without what its inputs share, which moves its bias instead.
    """

    horizon: float = 0.0
    keeps: bool = True
    centred: bool = False
    rate: Callable[[float, int, bool], float] = field(default=lambda delay, update, muon: COURSE[update])


def muon_and_adamw(parameters: Iterable[Tensor]) -> Optimizer:
    given = list(parameters)
    muon = partial(torch.optim.Muon, lr=0.02, adjust_lr_fn="match_rms_adamw")
    adamw = partial(torch.optim.AdamW, lr=0.02)
    return ws.ports.Joined((muon, [p for p in given if p.ndim == 2]), (adamw, [p for p in given if p.ndim != 2]))


def nadam(parameters: Iterable[Tensor]) -> Optimizer:
    """Of Ajanthan et al., Nesterov method for asynchronous pipeline parallel optimization, ICML 2025."""
    return torch.optim.NAdam(parameters, lr=0.01, betas=(0.99, 0.999), weight_decay=0.01, decoupled_weight_decay=True)


def packets(many: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(1)
    made = partial(torch.randn, generator=generator, dtype=torch.float64)
    return [(made(4, 5), made(4, 3)) for _ in range(len(COURSE) * many)]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(STAGES - 1)]
    return nn.Sequential(*hidden, nn.Linear(5, 3)).double()


def pairs_of(network: nn.Module) -> list[Pair]:
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return [(linear.weight.detach().clone(), linear.bias.detach().clone()) for linear in linears]


def efforts_by_hand(seen: list[Pair], back: list[Pair], x: Tensor, target: Tensor, share: float) -> list[Pair]:
    """Of share · MSE: up through `seen`, credits down through `back`."""
    points = [x]
    for index, (weight, bias) in enumerate(seen):
        z = torch.addmm(bias, points[-1], weight.t())
        points.append(z if index == STAGES - 1 else z.tanh())
    credit = 2 / target.numel() * (points[-1] - target) * share
    found: list[Pair] = []
    for index in reversed(range(STAGES)):
        if index < STAGES - 1:
            credit = credit * (1 - points[index + 1].square())
        found.append((credit.t() @ points[index], credit.sum(0)))
        credit = credit @ back[index][0]
    return found[::-1]


def literal(rule: Written, many: int, make: Callable[[Iterable[Tensor]], Optimizer]) -> list[Pair]:
    """What each stage has after all packets: stage s shows to packet j what it has after (j − lead)/M updates."""
    now = pairs_of(net())
    versions = [[pair] for pair in now]
    shown = [[pair] for pair in now]
    ports = [make([nn.Parameter(tensor.clone()) for tensor in pair]) for pair in now]
    data, commons = packets(many), [Common() for _ in now]
    for update in range(len(COURSE)):
        sums: list[list[Pair]] = []
        for number in range(update * many, (update + 1) * many):
            ages = [max(0, (number - (STAGES - 1 - stage)) // many) for stage in range(STAGES)]
            seen = [shown[stage][age] for stage, age in enumerate(ages)]
            back = seen if rule.keeps else [versions[stage][update] for stage in range(STAGES)]
            sums.append(efforts_by_hand(seen, back, *data[number], 1 / many))
        for stage, port in enumerate(ports):
            delay = (STAGES - 1 - stage) / many
            effort = added([each[stage] for each in sums])
            common = commons[stage].with_effort(*effort) if rule.centred and delay else None
            moved = stepped(port, effort, partial(rule.rate, delay, update), common)
            before = versions[stage][-1]
            versions[stage].append(moved)
            ahead = [a + rule.horizon * delay * (a - b) for a, b in zip(moved, before, strict=True)]
            shown[stage].append((ahead[0], ahead[1]))
    return [version[-1] for version in versions]


def added(efforts: list[Pair]) -> Pair:
    """Those of all packets of an update."""
    weight, bias = (each.clone() for each in efforts[0])
    for of_weight, of_bias in efforts[1:]:
        weight, bias = weight + of_weight, bias + of_bias
    return weight, bias


class Common:
    """What the inputs of a layer share, by (P2)."""

    def __init__(self) -> None:
        self.along: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def with_effort(self, of_weight: Tensor, of_bias: Tensor) -> Tensor:
        self.along = 0.98 * self.along + of_bias @ of_weight
        self.square = 0.98 * self.square + of_bias @ of_bias
        found: Tensor = self.along / self.square
        return found


def stepped(port: Optimizer, effort: Pair, rate: Callable[[bool], float], common: Tensor | None) -> Pair:
    """One step of a fraction of the rates, centred (P1) where it is said what is common."""
    parameters = {p.ndim: p for group in port.param_groups for p in group["params"]}
    weight, bias = parameters[2], parameters[1]
    before = weight.detach().clone()
    weight.grad, bias.grad = effort
    if common is not None:
        weight.grad = weight.grad - torch.outer(bias.grad, common)
    own = [group["lr"] for group in port.param_groups]
    for group in port.param_groups:
        group["lr"] *= rate("ns_steps" in group)
    port.step()
    for group, rate_before in zip(port.param_groups, own, strict=True):
        group["lr"] = rate_before
    if common is not None:
        bias.data -= (weight.detach() - before) @ common
    return weight.detach().clone(), bias.detach().clone()


RULES: dict[str, tuple[Weights, Written, Any]] = {
    "Adam on current weights": (Current(), Written(keeps=False), partial(torch.optim.AdamW, lr=0.01)),
    "Nesterov": (Stashed(), Written(), nadam),
    "Nesterov, predicted": (Predicted(), Written(horizon=1.0), nadam),
    "PipeMare T1": (
        StalenessAware(Current(), power=1.0, over=5),
        Written(keeps=False, rate=lambda d, update, muon: COURSE[update] * (1 + d) ** -max(0.0, 1 - update / 5)),
        partial(torch.optim.AdamW, lr=0.01),
    ),
    "Muon on stashed weights": (Stashed(), Written(), muon_and_adamw),
    "Muon, predicted": (Predicted(), Written(horizon=1.0), muon_and_adamw),
    "Muon, predicted, lr/√(1 + d)": (
        StalenessAware(),
        Written(horizon=1.0, rate=lambda d, update, muon: COURSE[update] * (1 + d) ** -0.5),
        muon_and_adamw,
    ),
    "Muon, predicted, bounded, centred": (
        DelayBounded(),
        Written(
            horizon=1.0,
            rate=lambda d, update, muon: min(
                COURSE[update], max(COURSE[: update + 1]) / (1 + d) ** (0.5 if muon else 1)
            ),
            centred=True,
        ),
        muon_and_adamw,
    ),
}


@pytest.mark.parametrize("many", [1, 2, 4])
@pytest.mark.parametrize("name", RULES)
def test_a_pipeline_is_the_rule_written_out(name: str, many: int) -> None:
    weights, written, make = RULES[name]
    network = net()
    options: dict[str, Any] = {"optimizer": make, "weights": weights, "scheduler": scheduler}
    pipeline = ws.Pipeline(ws.Chain(network, nn.MSELoss()), STAGES, schedule=Unlocked(many), **options)
    pipeline.train(packets(many))
    for mine, expected in zip(pairs_of(network), literal(written, many, make), strict=True):
        for one, other in zip(mine, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weights", [StalenessAware(Stashed(), power=1.0, over=8), DelayBounded(Stashed())])
def test_what_a_rule_counts_goes_on_from_a_checkpoint(weights: Weights) -> None:
    def made() -> tuple[nn.Sequential, ws.Pipeline]:
        network, make = net(), partial(torch.optim.AdamW, lr=0.01)
        options: dict[str, Any] = {"optimizer": make, "weights": weights, "scheduler": scheduler}
        return network, ws.Pipeline(ws.Chain(network, nn.MSELoss()), STAGES, schedule=Unlocked(2), **options)

    data = packets(2)
    (one, undisturbed), (_, begun), (other, resumed) = made(), made(), made()
    for part in (data[:8], data[8:]):
        undisturbed.train(part)
    begun.train(data[:8])
    resumed.load_state_dict(begun.state_dict())
    resumed.train(data[8:])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert begun.stages[0].optimizer is not None
    assert {"updates_resisted", "largest_rate"} & set(begun.stages[0].optimizer.param_groups[0])


def test_the_resistance_of_a_delay_is_there_only_while_a_port_steps() -> None:
    weight, twin = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    late = ws.ports.Resisted(torch.optim.SGD([weight], lr=0.4, momentum=0.5), 3.0, power=0.5)
    slower = torch.optim.SGD([twin], lr=0.2, momentum=0.5)
    for _ in range(3):
        for parameter, port in ((weight, late), (twin, slower)):
            parameter.grad = parameter.detach().clone()
            port.step()
    assert torch.equal(weight, twin)
    assert late.param_groups[0]["lr"] == 0.4


@pytest.mark.parametrize("wrong", [{"delay": -1.0}, {"power": float("nan")}, {"over": 0}])
def test_a_resistance_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    port = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ws.errors.InputError, match="cannot resist"):
        ws.ports.Resisted(port, **{"delay": 1.0, **wrong})


def test_a_bounded_rate_that_is_a_tensor_is_not_written_into() -> None:
    rate = torch.tensor(0.4)
    weight = nn.Parameter(torch.ones(3))
    late = ws.ports.RateBounded(torch.optim.AdamW([weight], lr=rate, weight_decay=0.0), 3.0)
    weight.grad = torch.ones(3)
    late.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))
    assert late.param_groups[0]["lr"] is rate
    assert rate == torch.tensor(0.4)

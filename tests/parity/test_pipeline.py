"""Stages against one process, and against a literal account of which packet sees which parameters."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import chain as joined
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import law
from worldsheet.pipeline import (
    Current,
    DelayCompensated,
    Locked,
    Pipeline,
    Plan,
    Predicted,
    Stashed,
    Unlocked,
    Weights,
    balanced,
)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-2),
}


def layers(seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    hidden: list[nn.Module] = [nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(3)]
    return [nn.Linear(4, 5), *hidden, nn.Sequential(nn.Linear(5, 5), nn.GELU()), nn.Linear(5, 3)]


def part_of_mean(count: float, output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(output, target) / count


def packets(count: int, size: int = 3, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    make = partial(torch.randn, generator=generator, dtype=torch.float64)
    return [(make(size, 4), make(size, 3)) for _ in range(count)]


def uneven(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(x[: 1 + number % 3], target[: 1 + number % 3]) for number, (x, target) in enumerate(packets(count))]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stages", [1, 2, 6])
def test_a_locked_pipeline_is_one_process_to_the_last_bit(optimizer: str, stages: int) -> None:
    mine, twin = nn.Sequential(*layers()).double(), nn.Sequential(*layers()).double()
    many, data = 3, packets(8)
    pipeline = Pipeline(ws.Chain(mine, nn.MSELoss()), stages, optimizer=OPTIMIZERS[optimizer], schedule=Locked(many))
    losses = pipeline.train(data).losses

    one = OPTIMIZERS[optimizer](twin.parameters())
    expected = []
    for first in range(0, len(data), many):
        one.zero_grad()
        update = data[first : first + many]
        whole = ws.Chain(twin, partial(part_of_mean, len(update)))
        expected += [len(update) * ws.backward(whole, *pair).item() for pair in update]
        one.step()
    assert losses == pytest.approx(expected, rel=1e-15)
    for (name, ours), theirs in zip(mine.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def seen_updates(packet: int, lead: int, many: int) -> int:
    """Updates that a stage has made when it carries a packet up: one for every M credits before."""
    return max(packet - lead, 0) // many


def literal(
    parts: list[nn.Sequential],
    data: list[tuple[Tensor, Tensor]],
    optimizer: Callable[..., torch.optim.Optimizer],
    leads: list[int],
    many: int,
    weights: Weights,
) -> None:
    """Packet by packet, all parameters that ever were at hand; autograd through one stage at a time."""
    optimizers = [
        weights.port(optimizer(part.parameters()), [part], lead / many) for part, lead in zip(parts, leads, strict=True)
    ]
    foresight = {Predicted: 1.0, DelayCompensated: 2.0}.get(type(weights), 0.0)
    updates = [data[number // many * many :][:many] for number in range(len(data))]  # of each packet
    parts_of = [sum(len(x) for x, _ in update) / len(data[number][0]) for number, update in enumerate(updates)]
    history = [[[p.detach().clone() for p in part.parameters()]] for part in parts]
    for number, (x, target) in enumerate(data):
        points, used = [x], []
        for past, part, lead in zip(history, parts, leads, strict=True):
            index = seen_updates(number, lead, many)
            now, before = past[index], past[max(index - 1, 0)]
            ahead = foresight * lead / many
            used.append([(a + ahead * (a - b)).requires_grad_() for a, b in zip(now, before, strict=True)])
            points.append(_call(part, used[-1], points[-1]).detach())
        credit: Tensor | None = None
        for index in reversed(range(len(parts))):
            part = parts[index]
            values = used[index]
            if isinstance(weights, Current):
                values = [p.detach().clone().requires_grad_() for p in part.parameters()]
            point = points[index].clone().requires_grad_()
            output = _call(part, values, point)
            if credit is None:
                output, credit = part_of_mean(parts_of[number], output, target), torch.ones((), dtype=torch.float64)
            *efforts, credit = torch.autograd.grad(output, [*values, point], credit)
            for parameter, effort in zip(part.parameters(), efforts, strict=True):
                parameter.grad = effort if parameter.grad is None else parameter.grad + effort
            if (number + 1) % many == 0 or number == len(data) - 1:
                optimizers[index].step()
                optimizers[index].zero_grad()
                history[index].append([p.detach().clone() for p in part.parameters()])


def _call(part: nn.Sequential, values: list[Tensor], x: Tensor) -> Tensor:
    named = dict(zip((name for name, _ in part.named_parameters()), values, strict=True))
    output: Tensor = torch.func.functional_call(part, named, (x,))
    return output


@pytest.mark.filterwarnings("ignore:the pipeline was drained")
@pytest.mark.parametrize("weights", [Stashed(), Predicted(), DelayCompensated()], ids=str)
@given(
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    stages=st.integers(1, 6),
    many=st.integers(1, 3),
    slack=st.integers(0, 2),
    count=st.integers(1, 12),
)
@law(30)
def test_packets_see_the_parameters_that_the_order_says(
    weights: Weights, optimizer: str, stages: int, many: int, slack: int, count: int
) -> None:
    mine, twin = nn.Sequential(*layers()).double(), [layer.double() for layer in layers()]
    order = Unlocked(many, slack)
    chain, data = ws.Chain(mine, nn.MSELoss()), uneven(count)
    pipeline = Pipeline(chain, stages, optimizer=OPTIMIZERS[optimizer], weights=weights, schedule=order)
    pipeline.train(data)
    parts = [nn.Sequential(*(twin[i] for i in pipeline.plan.layers(s))) for s in range(stages)]
    literal(parts, data, OPTIMIZERS[optimizer], [order.warmup(s, stages) for s in range(stages)], many, weights)
    for ours, theirs in zip(mine.parameters(), joined.from_iterable(p.parameters() for p in parts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("many", [1, 2])
def test_current_weights_carry_up_through_then_and_pull_back_through_now(many: int) -> None:
    def linear() -> list[nn.Module]:
        torch.manual_seed(0)
        return [nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)]

    mine, twin = nn.Sequential(*linear()).double(), [layer.double() for layer in linear()]
    order, data = Unlocked(many), packets(9)
    chain = ws.Chain(mine, nn.MSELoss())
    Pipeline(chain, 4, optimizer=OPTIMIZERS["momentum"], weights=Current(), schedule=order).train(data)
    parts = [nn.Sequential(layer) for layer in twin]
    literal(parts, data, OPTIMIZERS["momentum"], [order.warmup(s, 4) for s in range(4)], many, Current())
    for ours, theirs in zip(mine.parameters(), joined.from_iterable(p.parameters() for p in parts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_same_packets_give_the_same_bits() -> None:
    nets = [nn.Sequential(*layers()) for _ in range(2)]
    data = [(x.float(), y.float()) for x, y in packets(9)]
    for net in nets:
        Pipeline(ws.Chain(net, nn.MSELoss()), 4, optimizer=OPTIMIZERS["adam"], packets_per_update=1).train(data)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_batch_norm_moves_once_per_packet_and_dropout_draws_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    twin = copy.deepcopy(net)
    data = packets(4)
    Pipeline(ws.Chain(net, nn.MSELoss()), 2, optimizer=partial(torch.optim.SGD, lr=0.0), schedule=Locked(2)).train(data)
    for x, _ in data:
        twin(x)
    torch.testing.assert_close(net[1].running_mean, twin[1].running_mean, rtol=1e-12, atol=1e-14)
    assert net[1].num_batches_tracked == 4


@given(costs=st.lists(st.integers(1, 9), min_size=1, max_size=7), data=st.data())
@law(60)
def test_the_cuts_are_the_best_there_are(costs: list[int], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    plan = balanced([float(cost) for cost in costs], stages)

    def worst(cuts: tuple[int, ...]) -> float:
        return max(sum(costs[a:b]) for a, b in pairwise(cuts))

    def all_cuts(left: int, low: int) -> list[tuple[int, ...]]:
        if left == 0:
            return [(len(costs),)]
        return [(cut, *rest) for cut in range(low, len(costs)) for rest in all_cuts(left - 1, cut + 1)]

    assert plan.stages == stages
    assert worst(plan.cuts) == min(worst((0, *cuts)) for cuts in all_cuts(stages - 1, 1))


def test_a_plan_is_followed() -> None:
    pipeline = Pipeline(ws.Chain(layers(), nn.MSELoss()), Plan((0, 1, 6)), optimizer=OPTIMIZERS["sgd"])
    assert [len(stage.chain) for stage in pipeline.stages] == [1, 5]

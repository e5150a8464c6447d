"""Groups, several optimizers, schedules of rates and clipping in stages against one process, resumed to the bit."""

import copy
import io
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import worldsheet as ws
from nets import assert_tells
from worldsheet.pipeline import (
    Clip,
    DelayCompensated,
    GlobalNorm,
    Locked,
    Pipeline,
    PipelineSchedule,
    Plan,
    Predicted,
    StageNorm,
    Unlocked,
)

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline was drained")

RATES = torch.optim.lr_scheduler


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    blocks = (nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh()) for _ in range(5))
    return nn.Sequential(*blocks, nn.Linear(6, 3)).double()


def packets(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    make = partial(torch.randn, generator=generator, dtype=torch.float64)
    return [(make(4, 6), make(4, 3)) for _ in range(count)]


def momentum(parameters: Iterable[Tensor]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def grouped(parameters: Iterable[Tensor]) -> Optimizer:
    given = list(parameters)
    decayed = {"params": [p for p in given if p.ndim == 2], "weight_decay": 0.1}
    return torch.optim.AdamW([decayed, {"params": [p for p in given if p.ndim != 2], "lr": 0.02}], lr=0.01)


def several(parameters: Iterable[Tensor]) -> Optimizer:
    given = list(parameters)
    muon = partial(torch.optim.Muon, lr=0.02), [p for p in given if p.ndim == 2]
    return ws.ports.Joined(muon, (partial(torch.optim.NAdam, lr=0.01), [p for p in given if p.ndim != 2]))


def warmed(optimizer: Optimizer) -> LRScheduler:
    warm = RATES.LinearLR(optimizer, start_factor=0.1, total_iters=2)
    return RATES.SequentialLR(optimizer, [warm, RATES.CosineAnnealingLR(optimizer, T_max=4)], milestones=[2])


def cycled(optimizer: Optimizer) -> LRScheduler:
    return RATES.OneCycleLR(optimizer, max_lr=0.1, total_steps=8, cycle_momentum=False)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("stages", [1, 3, 6])
@pytest.mark.parametrize("scheduler", [warmed, cycled])
@pytest.mark.parametrize("make", [momentum, grouped, several])
def test_locked_stages_with_rates_on_a_schedule_are_one_process(make: Any, scheduler: Any, stages: int) -> None:
    mine, twin, data = net(), net(), packets(12)
    chain = ws.Chain(mine, nn.MSELoss())
    Pipeline(chain, stages, optimizer=make, scheduler=scheduler, schedule=Locked(2)).train(data)
    one = make(twin.parameters())
    rates = scheduler(one)
    for number, (x, target) in enumerate(data):
        (nn.functional.mse_loss(twin(x), target) / 2).backward()
        if number % 2:
            one.step()
            one.zero_grad()
            rates.step()
    assert_same(mine, twin)


@pytest.mark.parametrize("max_norm", [1e-3, 0.1, 10.0])
def test_a_stage_that_is_clipped_is_clipped_as_torch_does(max_norm: float) -> None:
    mine, twin, data = net(), net(), packets(6)
    chain, clip = ws.Chain(mine, nn.MSELoss()), StageNorm(max_norm)
    Pipeline(chain, 3, optimizer=momentum, clip=clip, schedule=Locked(2)).train(data)
    one = momentum(twin.parameters())
    for number, (x, target) in enumerate(data):
        (nn.functional.mse_loss(twin(x), target) / 2).backward()
        if number % 2:
            for first in (0, 2, 4):
                clip_grad_norm_(twin[first : first + 2].parameters(), max_norm)
            one.step()
            one.zero_grad()
    assert_same(mine, twin)


def made(net: nn.Module, stages: int, make: Any, order: PipelineSchedule, clip: Clip | None = None) -> Pipeline:
    chain = ws.Chain(net, nn.MSELoss())
    return Pipeline(chain, stages, optimizer=make, scheduler=warmed, schedule=order, clip=clip)


def written(state: Any) -> Any:
    """Through a file, as it is."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


ORDERS = [(Locked(2), 3), (Locked(2), 2), (Locked(2), 6), (Unlocked(1), 3), (Unlocked(2), 3)]


@pytest.mark.parametrize(("order", "stages"), ORDERS, ids=str)
@pytest.mark.parametrize("make", [momentum, grouped, several])
def test_what_is_resumed_goes_on_to_the_same_bits_and_where_it_flushes_with_any_number_of_stages(
    make: Any, order: PipelineSchedule, stages: int
) -> None:
    whole, first, last, data = net(), net(), net(5), packets(12)
    undisturbed = made(whole, 3, make, order)
    undisturbed.train(data[:6])
    undisturbed.train(data[6:])
    before = made(first, 3, make, order)
    before.train(data[:6])
    after = made(last, stages, make, order)
    after.load_state_dict(written(before.state_dict()))
    assert [stage.updates for stage in after.stages] == [before.stages[0].updates] * stages
    after.train(data[6:])
    assert_same(whole, last)
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters(), first.parameters(), strict=True))


def test_a_state_holds_the_state_dict_of_the_module_and_stages_put_theirs_together() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    pipeline = made(model, 3, grouped, Unlocked(1))
    pipeline.train(packets(5))
    state = pipeline.state_dict()
    assert list(state["model"]) == list(model.state_dict())
    assert all(torch.equal(state["model"][key], value) for key, value in model.state_dict().items())
    parts = [written(stage.state_dict()) for stage in pipeline.stages]
    assert str(ws.pipeline.merged(parts)) == str(state)
    twin = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    twin.load_state_dict(state["model"])
    assert_same(twin, model)


def test_a_loaded_state_is_not_shared() -> None:
    pipeline = made(net(), 3, several, Unlocked(1))
    pipeline.train(packets(5))
    state = copy.deepcopy(pipeline.state_dict())
    other = made(net(), 3, several, Unlocked(1))
    other.load_state_dict(state)
    kept = copy.deepcopy(state)
    other.train(packets(3))
    assert str(state) == str(kept)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, output: Tensor) -> Tensor:
        return output * self.weight


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Scale()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.scale(output), target)


@pytest.mark.parametrize("weights", [Predicted(), DelayCompensated()], ids=str)
def test_a_parameter_of_the_loss_is_that_of_a_last_layer(weights: Any) -> None:
    """No stage but the last moves it, though all of them are in one process and know the loss."""
    loss, order, data = Scaled(), Unlocked(2), packets(11)
    common: dict[str, Any] = {"optimizer": momentum, "weights": weights, "schedule": order}
    pipeline = Pipeline(ws.Chain(net(), loss), Plan((0, 2, 4, 6)), **common)
    pipeline.train(data)
    layered = nn.Sequential(*net(), Scale())
    Pipeline(ws.Chain(layered, nn.MSELoss()), Plan((0, 2, 4, 7)), **common).train(data)
    torch.testing.assert_close(loss.scale.weight, layered[-1].weight, rtol=1e-12, atol=0)
    state, fresh = pipeline.state_dict(), Scaled()
    assert torch.equal(state["loss"]["scale.weight"], loss.scale.weight)
    Pipeline(ws.Chain(net(), fresh), 2, **common).load_state_dict(state)
    assert torch.equal(fresh.scale.weight, loss.scale.weight)


def test_stages_are_cut_otherwise_where_some_had_nothing_to_move() -> None:
    whole, last, data = net(), net(5), packets(12)
    for model in (whole, last):
        model[:2].requires_grad_(False)
    undisturbed = made(whole, 3, momentum, Locked(2))
    undisturbed.train(data[:6])
    after = made(last, 2, momentum, Locked(2))
    after.load_state_dict(written(undisturbed.state_dict()))
    undisturbed.train(data[6:])
    after.train(data[6:])
    assert_same(whole, last)


class Own(Optimizer):
    """Remembers a plain number, as some optimizers do."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                own = self.state[parameter]
                own["count"] = own.get("count", 0) + 1
                parameter.sub_(parameter.grad, alpha=group["lr"] / own["count"])


def test_an_optimizer_that_remembers_plain_numbers_is_resumed_too() -> None:
    whole, last, data = net(), net(5), packets(8)
    undisturbed = Pipeline(ws.Chain(whole, nn.MSELoss()), 3, optimizer=Own, schedule=Unlocked(1))
    undisturbed.train(data[:4])
    after = Pipeline(ws.Chain(last, nn.MSELoss()), 3, optimizer=Own, schedule=Unlocked(1))
    after.load_state_dict(written(undisturbed.state_dict()))
    undisturbed.train(data[4:])
    after.train(data[4:])
    assert_same(whole, last)


def refused(**options: Any) -> Any:
    with pytest.raises(ws.errors.InputError) as caught:
        Pipeline(ws.Chain(net(), nn.MSELoss()), 3, **options)
    return caught.value


def test_what_cannot_answer_a_stage_is_refused() -> None:
    assert_tells(refused(optimizer=torch.optim.LBFGS), "LBFGS asks for the loss again", "AdamW")
    plateau = RATES.ReduceLROnPlateau
    assert_tells(refused(optimizer=momentum, scheduler=plateau), "ReduceLROnPlateau asks for a metric", "OneCycleLR")
    few = refused(optimizer=lambda given: momentum(list(given)[1:]))
    assert_tells(few, "it does not move '0.0.weight' of stage 0 (layers 1..2)", "requires_grad_(False)")
    strange = refused(optimizer=lambda given: momentum([*given, nn.Parameter(torch.ones(1))]))
    assert_tells(strange, "it moves others too")
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ws.errors.InputError, match="max_norm must be a positive finite number"):
            StageNorm(wrong)


def test_optimizers_that_are_joined_have_parameters_of_their_own() -> None:
    weight = [nn.Parameter(torch.ones(2, 2))]
    sgd = partial(torch.optim.SGD, lr=0.1)
    wrong: list[list[Any]] = [[(sgd, weight), (sgd, weight)], [(sgd, [])], []]
    for parts in wrong:
        with pytest.raises(ws.errors.InputError, match=r"pairs .make, parameters. whose parameters are all different"):
            ws.ports.Joined(*parts)
    joined = ws.ports.Joined((sgd, weight), (sgd, []))
    assert len(joined.ports) == 1
    with pytest.raises(ws.errors.InputError, match="no port inside would move them"):
        joined.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


def test_a_state_that_does_not_fit_is_refused() -> None:
    pipeline = made(net(), 3, momentum, Unlocked(1))
    state = pipeline.state_dict()
    with pytest.raises(ws.errors.InputError, match=r"stage 0 .* has a schedule of 0 rates, the state one of 1"):
        Pipeline(ws.Chain(net(), nn.MSELoss()), 3, optimizer=momentum).load_state_dict(state)
    with pytest.raises(ws.errors.InputError, match="the state does not hold stage 1"):
        pipeline.load_state_dict(pipeline.stages[0].state_dict())
    with pytest.raises(ws.errors.InputError, match="has a schedule of 2 rates, the state one of 1"):
        made(net(), 3, grouped, Unlocked(1)).load_state_dict(state)
    narrow = nn.Sequential(*(nn.Linear(6, 6) for _ in range(6))).double()
    with pytest.raises(ws.errors.InputError, match=r"the state does not fit stage 0"):
        made(narrow, 3, momentum, Unlocked(1)).load_state_dict(state)


def exact(parameters: Iterable[Tensor]) -> Optimizer:
    """NAdam's own scalars are in float32, and torch's load_state_dict gives them the dtype of the parameter."""
    given = list(parameters)
    muon = partial(torch.optim.Muon, lr=0.02), [p for p in given if p.ndim == 2]
    return ws.ports.Joined(muon, (partial(torch.optim.AdamW, lr=0.01), [p for p in given if p.ndim != 2]))


@pytest.mark.parametrize("make", [momentum, grouped, exact])
def test_ports_around_ports_load_what_they_gave(make: Any) -> None:
    layers = net()
    twins = copy.deepcopy(layers)
    ports = [ws.ports.BiasCentered(ws.ports.Slowed(make(each.parameters()), 3.0), each) for each in (layers, twins)]
    for round_ in range(4):
        for each, port in zip((layers, twins), ports, strict=True):
            nn.functional.mse_loss(each(packets(4)[round_][0]), packets(4)[round_][1]).backward()
            port.step()
            port.zero_grad()
        if round_ == 1:
            fresh = ws.ports.BiasCentered(ws.ports.Slowed(make(twins.parameters()), 3.0), twins)
            fresh.load_state_dict(copy.deepcopy(ports[1].state_dict()))
            ports[1] = fresh
    assert_same(layers, twins)


@pytest.mark.parametrize("stages", [1, 2, 3, 6])
@pytest.mark.parametrize("max_norm", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_locked_stages_that_are_clipped_together_are_one_process(
    dtype: torch.dtype, max_norm: float, stages: int
) -> None:
    mine, twin = net().to(dtype), net().to(dtype)
    data = [(x.to(dtype), target.to(dtype)) for x, target in packets(6)]
    chain, clip = ws.Chain(mine, nn.MSELoss()), GlobalNorm(max_norm)
    Pipeline(chain, stages, optimizer=momentum, clip=clip, schedule=Locked(2)).train(data)
    one = momentum(twin.parameters())
    for number, (x, target) in enumerate(data):
        (nn.functional.mse_loss(twin(x), target) / 2).backward()
        if number % 2:
            clip_grad_norm_(twin.parameters(), max_norm)
            one.step()
            one.zero_grad()
    assert_same(mine, twin)


class Watched(Optimizer):
    """Notes the norms of what it is given, and does not move, so that all norms are known beforehand."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.0})
        self.seen: list[float] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        efforts = [p.grad for group in self.param_groups for p in group["params"]]
        self.seen.append(float(torch.stack([effort.square().sum() for effort in efforts]).sum().sqrt()))


def watched(clip: Clip | None, stages: int, order: PipelineSchedule, count: int) -> list[list[float]]:
    """The norm at each stage and update."""
    chain = ws.Chain(net(), nn.MSELoss())
    weights = ws.pipeline.Stashed()
    pipeline = Pipeline(chain, stages, optimizer=Watched, clip=clip, schedule=order, weights=weights)
    pipeline.train(packets(count))
    return [stage.optimizer.seen for stage in pipeline.stages]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("order", "stages", "count"),
    [
        (Unlocked(1), 3, 9),
        (Unlocked(2), 3, 12),
        (Unlocked(1, slack=1), 3, 11),
        (Unlocked(2), 6, 23),
        (Unlocked(4), 6, 30),
    ],
    ids=str,
)
def test_late_stages_are_clipped_by_the_newest_norms_that_have_come_along(
    order: Unlocked, stages: int, count: int
) -> None:
    many, limit = order.packets_per_update, 0.05
    free = watched(None, stages, order, count)
    found = watched(GlobalNorm(limit), stages, order, count)
    for stage in range(stages):
        for update, own in enumerate(free[stage], start=1):
            newest = min(update * many - 1 + order.warmup(stage, stages), count - 1)  # the packet that passed last
            square = own**2
            for other in range(stages):
                if other > stage:
                    known = update - 1
                elif other < stage:
                    known = max(newest - order.warmup(other, stages), 0) // many
                else:
                    continue
                square += free[other][known - 1] ** 2 if known else 0.0
            assert found[stage][update - 1] == pytest.approx(own * min(1.0, limit / (square**0.5 + 1e-6)), rel=1e-12)


@pytest.mark.parametrize("order", [Unlocked(1), Unlocked(2), Locked(2)], ids=str)
def test_norms_that_have_come_along_are_resumed_too(order: PipelineSchedule) -> None:
    whole, last, data = net(), net(5), packets(12)
    undisturbed = made(whole, 3, grouped, order, GlobalNorm(0.05))
    undisturbed.train(data[:6])
    after = made(last, 3, grouped, order, GlobalNorm(0.05))
    after.load_state_dict(written(undisturbed.state_dict()))
    undisturbed.train(data[6:])
    after.train(data[6:])
    assert_same(whole, last)

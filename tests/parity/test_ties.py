"""Parameters that several stages use: one process by autograd, and what each packet sees, written out."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.pipeline import (
    Current,
    DelayBounded,
    DelayCompensated,
    GlobalNorm,
    Locked,
    Pipeline,
    PipelineSchedule,
    Predicted,
    Stashed,
    Unlocked,
    Weights,
)

Packet = tuple[Tensor, Tensor]
WORDS = 11
ADAM = partial(torch.optim.Adam, lr=1e-2)


class Mixed(nn.Module):
    """A layer between, which may use the embedding too."""

    def __init__(self, table: nn.Parameter | None = None) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.norm(x)).tanh()
        return y if self.table is None else y + (y @ self.table.T).sin().mean(-1, keepdim=True)


def tied(*, between: bool = False, double: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    stem, head = nn.Embedding(WORDS, 6), nn.Linear(6, WORDS, bias=False)
    table = nn.Parameter(torch.randn(WORDS, 6))
    stem.weight, head.weight = table, table
    net = nn.Sequential(stem, Mixed(), Mixed(table if between else None), Mixed(), head)
    return net.double() if double else net


def token_loss(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def packets(count: int) -> list[Packet]:
    tokens = torch.randint(WORDS, (count, 3, 5), generator=torch.Generator().manual_seed(1))
    return [(each, (3 * each + 1) % WORDS) for each in tokens]


def made(net: nn.Sequential, stages: int, schedule: PipelineSchedule, **rules: object) -> Pipeline:
    return Pipeline(ws.Chain(net, token_loss), stages, optimizer=ADAM, schedule=schedule, **rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("stages", [2, 3, 5])
def test_a_locked_pipeline_with_tied_embeddings_is_one_process_to_the_last_bit(stages: int, between: bool) -> None:
    mine, twin, data = tied(between=between), tied(between=between), packets(8)
    losses = made(mine, stages, Locked(4), clip=GlobalNorm(0.1)).train(data).losses
    one = ADAM(twin.parameters())
    for number, (x, target) in enumerate(data):
        loss = token_loss(twin(x), target)
        assert losses[number] == loss.item()
        (loss / 4).backward()
        if number % 4 == 3:
            nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
            one.step()
            one.zero_grad()
    for (name, ours), theirs in zip(mine.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert mine[0].weight is mine[4].weight


def written_out(net: nn.Sequential, data: list[Packet], order: PipelineSchedule, weights: Weights, stages: int) -> None:
    """A stage a layer; what each packet sees of all parameters, the tied one as the first stage shows it; autograd."""
    many, leads = order.packets_per_update, [order.warmup(stage, stages) for stage in range(stages)]
    foresight = 1.0 if isinstance(weights, Predicted) else 0.0
    table = net[0].weight
    own = [[p for p in layer.parameters() if stage == 0 or p is not table] for stage, layer in enumerate(net)]
    ports = [weights.port(ADAM(p), [net], lead / many) if p else None for p, lead in zip(own, leads, strict=True)]
    past = [[[p.detach().clone() for p in group]] for group in own]
    for number, (x, target) in enumerate(data):
        seen: dict[int, Tensor] = {}
        for group, history, lead in zip(own, past, leads, strict=True):
            index = max(number - lead, 0) // many
            pairs = zip(group, history[index], history[max(index - 1, 0)], strict=True)
            seen |= {id(p): (a + foresight * lead / many * (a - b)).requires_grad_() for p, a, b in pairs}
        named = {name: seen[id(p)] for name, p in net.named_parameters()}
        output = torch.func.functional_call(net, named, (x,), tie_weights=True)
        parameters = [p for group in own for p in group]
        size = len(data[number // many * many :][:many])
        found = torch.autograd.grad(token_loss(output, target) / size, [seen[id(p)] for p in parameters])
        for parameter, effort in zip(parameters, found, strict=True):
            parameter.grad = effort if parameter.grad is None else parameter.grad + effort
        if (number + 1) % many == 0 or number == len(data) - 1:
            for group, port, history in zip(own, ports, past, strict=True):
                if port is not None:
                    port.step()
                    port.zero_grad()
                history.append([p.detach().clone() for p in group])


@pytest.mark.filterwarnings("ignore:the pipeline was drained")
@pytest.mark.parametrize("weights", [Stashed(), Predicted()], ids=str)
@pytest.mark.parametrize("order", [Unlocked(1), Unlocked(2), Unlocked(3, slack=1)], ids=str)
@pytest.mark.parametrize("between", [False, True])
def test_every_packet_sees_one_value_of_a_tied_parameter_wherever_it_is_used(
    weights: Weights, order: PipelineSchedule, between: bool
) -> None:
    mine, twin, data = tied(between=between, double=True), tied(between=between, double=True), packets(17)
    made(mine, 5, order, weights=weights).train(data)
    written_out(twin, data, order, weights, 5)
    for (name, ours), theirs in zip(mine.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("weights", [Current(), Stashed(), DelayCompensated(), DelayBounded()], ids=str)
@pytest.mark.parametrize("calls", [1, 4, 12])
def test_calls_that_do_not_drain_are_one_call(weights: Weights, calls: int) -> None:
    whole, parts, data = tied(between=True), tied(between=True), packets(12)
    made(whole, 4, Unlocked(1), weights=weights).train(data)
    pipeline = made(parts, 4, Unlocked(1), weights=weights)
    for begin in range(0, 12, 12 // calls):
        pipeline.train(data[begin : begin + 12 // calls], drain=False)
    pipeline.drain()
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("order", "stages"), [(Unlocked(1), 4), (Locked(2), 2), (Locked(2), 1)], ids=["same", "fewer", "one"]
)
def test_a_state_goes_on_to_the_same_bits(order: PipelineSchedule, stages: int) -> None:
    whole, parts, data = tied(), tied(), packets(16)
    one, before = made(whole, 4, order), made(parts, 4, order)
    one.train(data[:8])
    before.train(data[:8])
    state = before.state_dict()
    assert torch.equal(state["model"]["0.weight"], state["model"]["4.weight"])
    assert "4.weight" not in state["optimizer"]
    fresh = tied()
    after = made(fresh, stages, order)
    after.load_state_dict(state)
    assert after.train(data[8:]).losses == one.train(data[8:]).losses
    for (name, ours), theirs in zip(fresh.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_what_is_written_into_a_tied_parameter_between_calls_is_seen_by_the_next_packet() -> None:
    writes: list[Callable[[Tensor], object]] = [lambda w: w.data.mul_(2), lambda w: w.detach().mul_(2)]
    for order in (Locked(2), Unlocked(1)):
        for write in writes:
            net, data = tied(), packets(8)
            pipeline = made(net, 5, order, weights=Stashed())
            pipeline.train(data)
            write(net.get_parameter("0.weight"))
            expected = token_loss(net(data[0][0]), data[0][1]).item()
            assert pipeline.train(data).losses[0] == pytest.approx(expected, rel=1e-6)


def test_a_pipeline_that_runs_freely_is_refused_and_a_frozen_parameter_is_nobody_s() -> None:
    with pytest.raises(ws.errors.InputError, match=r"free_running=True cannot go with '0.weight'"):
        made(tied(), 3, Unlocked(1), free_running=True)
    net = tied()
    net[0].weight.requires_grad_(False)
    assert "0.weight" not in repr(made(net, 3, Unlocked(1)))
    assert "0.weight: of stage 0, used in 2" in repr(made(tied(), 3, Unlocked(1)))

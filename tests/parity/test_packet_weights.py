"""Packets of any sizes against one batch: the update is that of the loss of all packets of the update together."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from nets import assert_tells, law
from worldsheet.pipeline import Locked, Pipeline

DOUBLE = torch.float64
WIDTH, CLASSES = 6, 4
RATE = 1.0

Loss = Callable[[Any, Any], Tensor]


class TokenLoss(nn.Module):
    """A loss of the user's own: the mean over tokens that are not padding, NaN where there is none."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        keep = (target != -1).double()
        picked = output.log_softmax(-1).gather(-1, target.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return -(picked * keep).sum() / keep.sum()


class SquaredSum(nn.Module):
    reduction = "sum"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().sum()


def half_mean(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum() / (2 * len(output))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classes(count: int) -> Tensor:
    return torch.randint(CLASSES, (count,), generator=generator())


def padded(count: int) -> Tensor:
    """Classes of which many are padding, those of the first packet all of them."""
    target = classes(count)
    target[torch.rand(count, generator=generator(3)) < 0.4] = -100
    target[:2] = -100
    return target


def tokens(count: int) -> Tensor:
    return torch.where(padded(count) < 0, -1, classes(count))


def numbers(count: int) -> Tensor:
    return torch.randn(count, CLASSES, generator=generator(), dtype=DOUBLE)


def probabilities(count: int) -> Tensor:
    return numbers(count).softmax(1)


class Case(NamedTuple):
    """A loss, its targets, what a target weighs by the loss's own definition, and `weigh=`."""

    loss: Loss
    target: Callable[[int], Tensor]
    weight: Callable[[Tensor], Any]
    weigh: Callable[[Any], Any] | None = None


BY_CLASS = torch.tensor([0.5, 2.0, 1.25, 3.0], dtype=DOUBLE)


def kept(target: Tensor) -> float:
    return float((target != -100).sum())


def kept_tokens(target: Tensor) -> int:
    return int((target != -1).sum())


def by_class(target: Tensor) -> float:
    return sum(float(BY_CLASS[i]) for i in target.tolist() if i != -100)


def elements(target: Tensor) -> int:
    return target.numel()


CASES = {
    "classes": Case(nn.CrossEntropyLoss(), classes, len),
    "padding": Case(nn.CrossEntropyLoss(), padded, kept),
    "smoothed": Case(nn.CrossEntropyLoss(label_smoothing=0.1), padded, kept),
    "by class": Case(nn.CrossEntropyLoss(weight=BY_CLASS, label_smoothing=0.1), padded, by_class),
    "probabilities": Case(nn.CrossEntropyLoss(weight=BY_CLASS), probabilities, len),
    "function": Case(F.cross_entropy, padded, kept),
    "options": Case(partial(F.cross_entropy, ignore_index=-1), tokens, kept_tokens),
    "nll": Case(nn.NLLLoss(weight=BY_CLASS), padded, by_class),
    "squares": Case(nn.MSELoss(), numbers, elements),
    "distances": Case(nn.L1Loss(), numbers, elements),
    "huber": Case(nn.HuberLoss(), numbers, elements),
    "logits": Case(nn.BCEWithLogitsLoss(), probabilities, elements),
    "divergence": Case(nn.KLDivLoss(reduction="batchmean"), probabilities, len),
    "sum": Case(nn.MSELoss(reduction="sum"), numbers, lambda target: None),
    "own sum": Case(SquaredSum(), numbers, lambda target: None),
    "own": Case(half_mean, numbers, len),
    "own tokens": Case(TokenLoss(), tokens, kept_tokens, kept_tokens),
    "own tokens on the device": Case(TokenLoss(), tokens, kept_tokens, lambda target: (target != -1).sum()),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3)]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES)).to(DOUBLE)


def data(case: Case, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(sum(sizes), WIDTH, generator=generator(2), dtype=DOUBLE)
    return list(zip(x.split(sizes), case.target(sum(sizes)).split(sizes), strict=True))


def shares(case: Case, update: list[tuple[Tensor, Tensor]]) -> list[float]:
    weights = [case.weight(target) for _, target in update]
    if None in weights:
        return [1.0] * len(weights)
    return [weight / sum(weights) if sum(weights) else 0.0 for weight in weights]


def accumulated(case: Case, packets: list[tuple[Tensor, Tensor]], many: int, scaled: bool = True) -> nn.Sequential:
    """One process: `(loss_k * (w_k / W)).backward()` packet by packet, or the batch of each update at once."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for first in range(0, len(packets), many):
        update = packets[first : first + many]
        optimizer.zero_grad()
        if scaled:
            for (x, target), share in zip(update, shares(case, update), strict=True):
                if share:
                    (case.loss(model(x), target) * share).backward()
        elif any(shares(case, update)):
            xs, targets = (torch.cat(part) for part in zip(*update, strict=True))
            case.loss(model(xs), targets).backward()
        optimizer.step()
    return model


def trained(case: Case, packets: list[tuple[Tensor, Tensor]], stages: int, many: int) -> nn.Sequential:
    model = net()
    make = partial(torch.optim.SGD, lr=RATE)
    chain = ws.Chain(model, case.loss)
    Pipeline(chain, stages, optimizer=make, schedule=Locked(many), weigh=case.weigh).train(packets)
    return model


@pytest.mark.parametrize("name", CASES)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=7), many=st.integers(1, 5), stages=st.integers(1, 4))
@law(8)
def test_a_locked_update_is_that_of_all_its_packets_together(
    name: str, sizes: list[int], many: int, stages: int
) -> None:
    case = CASES[name]
    packets = data(case, sizes)
    mine, steps, batch = (
        trained(case, packets, stages, many),
        accumulated(case, packets, many),
        accumulated(case, packets, many, scaled=False),
    )
    # sums of class weights are rounded, in the order in which they are taken
    exact = torch.equal if BY_CLASS is not getattr(case.loss, "weight", None) else partial(torch.allclose, rtol=1e-13)
    for ours, theirs, whole in zip(mine.parameters(), steps.parameters(), batch.parameters(), strict=True):
        assert exact(ours, theirs)
        torch.testing.assert_close(ours, whole, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["padding", "by class", "nll", "own tokens", "own tokens on the device"])
def test_an_update_of_nothing_but_padding_moves_nothing(name: str) -> None:
    case = CASES[name]
    (x, target), *rest = data(case, [3, 4, 4])
    empty = torch.full_like(target, -1 if "own" in name else -100)
    expected = accumulated(case, rest, 2)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(
            trained(case, [(x, empty), (x, empty), *rest], 3, 2).parameters(), expected.parameters(), strict=True
        )
    )


def test_reported_losses_are_those_of_packets_and_their_mean_that_of_the_batch() -> None:
    case, model = CASES["padding"], net()
    packets = data(case, [3, 1, 4])
    make = partial(torch.optim.SGD, lr=0.0)
    done = Pipeline(ws.Chain(model, case.loss), 2, optimizer=make, schedule=Locked(3)).train(packets)
    whole = case.loss(model(torch.cat([x for x, _ in packets])), torch.cat([target for _, target in packets]))
    for (x, target), loss in zip(packets, done.losses, strict=True):
        assert loss == pytest.approx(float(case.loss(model(x), target).detach()), rel=1e-14, nan_ok=True)
    assert done.weights == tuple(kept(target) for _, target in packets)
    assert done.loss == pytest.approx(float(whole.detach()), rel=1e-14)


@pytest.mark.parametrize("many", [1, 3, 5, 6, 7])
def test_packets_that_weigh_the_same_have_the_share_of_a_number(many: int) -> None:
    """1/M itself, not one that is near it."""
    for name in ("padding", "squares", "own"):
        kind = Pipeline(
            ws.Chain(net(), CASES[name].loss), 1, optimizer=partial(torch.optim.SGD, lr=0.1)
        )._packet_weights
        target = CASES[name].target(9)[2:]
        weight = kind.weight(target, target)
        assert [float(share.value) for share in kind.shares([weight] * many)] == [1 / many] * many


@pytest.mark.parametrize("answer", [-1.0, float("nan"), float("inf"), "three", torch.ones(2)])
def test_a_weight_that_cannot_be_meant_is_refused(answer: Any) -> None:
    pipeline = Pipeline(
        ws.Chain(net(), half_mean), 2, optimizer=partial(torch.optim.SGD, lr=0.1), weigh=lambda target: answer
    )
    with pytest.raises(ws.errors.InputError) as caught:
        pipeline.train(data(CASES["own"], [2, 2]))
    assert_tells(caught.value, "weigh(target) must be a number", "(t != -100).sum()")

"""Several tensors between stages: masks, positions, auxiliary losses, integers; against one process."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells, law
from worldsheet.core.bundle import Bundle, bundled, with_note, without_note
from worldsheet.pipeline import Locked, Pipeline, Stashed, Unlocked, measured_costs
from worldsheet.pipeline.transport.message import packed, unpacked

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline was drained")

CPU = torch.device("cpu")
WORDS, WIDTH = 11, 6


class Begin(nn.Module):
    """From tokens and a mask of integers to a dict of what blocks read."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        tokens, mask = batch["tokens"], batch["mask"]
        angles = torch.arange(tokens.shape[1], dtype=torch.float64)
        return {"x": self.words(tokens), "mask": mask, "rotary": (angles.cos(), angles.sin()), "aux": [], "scale": 0.5}


class Block(nn.Module):
    """Attention under the mask, positions by rotation, and a term that the loss adds up."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, state: dict[str, Any]) -> dict[str, Any]:
        x, (cos, sin) = state["x"], state["rotary"]
        turned = self.query(x) * cos[:, None] + self.value(x).flip(-1) * sin[:, None]
        scores = (turned @ x.transpose(1, 2)).masked_fill(state["mask"][:, None] == 0, float("-inf"))
        y = x + state["scale"] * scores.softmax(-1) @ self.value(x)
        return {**state, "x": y, "aux": [*state["aux"], turned.square().mean()]}


class End(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.head(state["x"]), torch.stack(state["aux"]).sum()


def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    logits, aux = output
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()) + 0.1 * aux


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Begin(), *(Block() for _ in range(4)), End()).double()


def packets(count: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(1)
    whole = partial(torch.randint, 0, WORDS, (3, 5), generator=generator)
    mask = torch.ones(3, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    return [({"tokens": whole(), "mask": mask}, whole()) for _ in range(count)]


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def in_one_process(twin: nn.Module, cost: Callable[..., Tensor], data: list[Any], many: int) -> list[float]:
    one, losses = SGD([p for p in twin.parameters() if p.requires_grad]), []
    for number, (x, target) in enumerate(data):
        found = cost(twin(x), target)
        (found / many).backward()
        losses.append(found.item())
        if (number + 1) % many == 0:
            one.step()
            one.zero_grad()
    return losses


@pytest.mark.parametrize("stages", [1, 2, 3, 6])
def test_locked_stages_with_several_tensors_between_them_are_one_process(stages: int) -> None:
    mine, twin, data = model(), model(), packets(6)
    found = Pipeline(ws.Chain(mine, loss), stages, optimizer=SGD, schedule=Locked(2)).train(data)
    assert found.losses == pytest.approx(in_one_process(twin, loss, data, 2), rel=1e-14)
    assert_same(mine, twin)


def test_late_stages_with_several_tensors_see_what_those_with_one_tensor_see() -> None:
    """A tuple of one tensor that is passed on and one that is worked on, beside the one tensor alone."""

    class Beside(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.inner(pair[0]), pair[1]

    def layers() -> list[nn.Module]:
        torch.manual_seed(0)
        return [nn.Sequential(nn.Linear(4, 4), nn.Softplus()).double() for _ in range(5)]

    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).unbind() for _ in range(9)]
    mine, twin = nn.Sequential(*map(Beside, layers())), nn.Sequential(*layers())
    common: dict[str, Any] = {"optimizer": SGD, "weights": Stashed(), "schedule": Unlocked(1)}
    of_first = ws.Chain(mine, lambda output, target: nn.functional.mse_loss(output[0], target))
    Pipeline(of_first, 5, **common).train([((x, torch.arange(3)), target) for x, target in data])
    Pipeline(ws.Chain(twin, nn.MSELoss()), 5, **common).train(data)
    assert_same(mine, twin)


class Shift(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return (tokens + 1) % WORDS


def words(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


@pytest.mark.parametrize("frozen", [0, 3, 4])
def test_integers_between_stages_and_frozen_first_stages(frozen: int) -> None:
    def layers() -> nn.Sequential:
        torch.manual_seed(0)
        inner = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2)]
        made = nn.Sequential(Shift(), Shift(), nn.Embedding(WORDS, WIDTH), *inner, nn.Linear(WIDTH, WORDS)).double()
        made[:frozen].requires_grad_(False)
        return made

    mine, twin = layers(), layers()
    data = [(batch["tokens"], target) for batch, target in packets(6)]
    Pipeline(ws.Chain(mine, words), 6, optimizer=SGD, schedule=Locked(2)).train(data)
    in_one_process(twin, words, data, 2)
    assert_same(mine, twin)
    assert not torch.equal(list(mine.parameters())[-1], list(layers().parameters())[-1])


def test_a_layer_that_passes_no_credit_on_is_refused_where_one_is_wanted() -> None:
    class Cut(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return pair[0].detach(), pair[1]

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), torch.arange(3)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return self.inner(pair[0])

    pipeline = Pipeline(ws.Chain([Pair(), Cut(), First()], nn.MSELoss()), 3, optimizer=SGD)
    with pytest.raises(ws.errors.InputError, match=r"the output of stage 1 .* does not depend on its input"):
        pipeline.train([(torch.randn(3, 4), torch.randn(3, 4))])


def test_what_cannot_be_taken_apart_is_refused() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {x}

    pipeline = Pipeline(ws.Chain([nn.Linear(4, 4), Strange()], nn.MSELoss()), 2, optimizer=SGD)
    with pytest.raises(ws.errors.LayerError) as caught:
        pipeline.train([(torch.randn(3, 4), torch.randn(3, 4))])
    assert_tells(caught.value, "returned an object of type set", "in tuples, lists and dicts")
    with pytest.raises(ws.errors.InputError, match=r"stage 0 .* was given an object of type set"):
        pipeline.train([({1}, torch.randn(3, 4))])


def test_costs_of_layers_with_several_tensors_are_measured() -> None:
    x, target = packets(1)[0]
    costs = measured_costs(ws.Chain(model(), loss), x, target)
    assert len(costs) == 6
    assert min(costs) > 0


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.uint8]
SHAPES = st.lists(st.integers(0, 3), max_size=3)
TENSORS = st.builds(lambda shape, dtype: (torch.randn(shape) * 9).to(dtype), SHAPES, st.sampled_from(DTYPES))
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3))
VALUES = st.recursive(
    st.one_of(TENSORS, PLAIN),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(value=VALUES)
@law(80)
def test_a_bundle_arrives_as_it_was_sent(value: Any) -> None:
    sent = bundled(value)
    arrived = unpacked(packed(sent, None), CPU)
    assert equal(arrived.value, value)
    assert arrived.wanted == sent.wanted
    note = torch.randn(4, dtype=torch.float64)
    noted = unpacked(packed(with_note(sent, note), torch.bfloat16), CPU)
    back, found = without_note(noted)
    assert torch.equal(found, note)  # to the last bit, whatever states are rounded to
    rounded = sent.map(lambda leaf: leaf.bfloat16().to(leaf.dtype))
    assert equal(back.value if isinstance(back, Bundle) else back, rounded.value)

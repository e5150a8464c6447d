"""A mean over batch and time is as strong per token as a mean over a batch is per sample.

The oracle is the same network on the same tokens as one long batch: where layers see each token by itself, nothing
about a relaxation may depend on how the tokens are arranged in sequences.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws

SEQUENCES, LENGTH, CLASSES = 3, 5, 4
RULES = [
    pytest.param(ws.PredictiveCoding(rate=0.2), id="pc"),
    pytest.param(ws.PredictiveCoding(rate=0.2, nudge=0.5), id="nudged"),
    pytest.param(ws.AugmentedLagrangian(rate=0.2), id="pc-alm"),
    pytest.param(ws.Wave(impedance=0.3, matching=0.5), id="wave"),
    pytest.param(ws.substrates.Delayed(ws.PredictiveCoding(rate=0.1), 1), id="substrate"),
]


class ClassesSecond(nn.Module):
    """Where torch's cross-entropy wants them."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x)
        return scores.movedim(-1, 1)


class Whole(nn.Module):
    """The same layers under a forward of its own."""

    def __init__(self, path: nn.Sequential) -> None:
        super().__init__()
        self.parts = nn.ModuleList(path)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


BLOCKS = [nn.Sequential, ClassesSecond]


def network() -> nn.Sequential:
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]
    return nn.Sequential(*layers, ClassesSecond(nn.Linear(6, CLASSES))).double()


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(SEQUENCES, LENGTH, 6, dtype=torch.float64)
    return x, torch.randint(CLASSES, (SEQUENCES, LENGTH))


def gradients(
    module: nn.Module, loss: Any, x: Tensor, target: Tensor, dynamics: ws.dynamics.Dynamics, **options: Any
) -> dict[str, Tensor]:
    sol = ws.relax(
        ws.Chain(module, loss, blocks=BLOCKS if isinstance(module, Whole) else None),
        x,
        target,
        dynamics,
        stop=ws.Stop(max_ticks=7),
        **options,
    )
    return {name.removeprefix("parts."): gradient for name, gradient in sol.gradients().items()}


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("form", ["path, stacked", "path, one by one", "module"])
@pytest.mark.parametrize("dynamics", RULES)
def test_sequences_are_relaxed_as_their_tokens_are(
    dynamics: ws.dynamics.Dynamics, form: str, weighted: bool, padded: bool
) -> None:
    path, (x, target) = network(), data()
    if padded and isinstance(dynamics, ws.Wave):
        pytest.skip("a wave crosses padding too, before it comes to rest")
    if padded:
        target[0, 2:] = -100
    weight = torch.linspace(0.5, 2.0, CLASSES, dtype=torch.float64) if weighted else None
    loss = nn.CrossEntropyLoss(weight=weight)
    module = Whole(copy.deepcopy(path)) if form == "module" else path
    found = gradients(module, loss, x, target, dynamics, stack=form == "path, stacked")
    kept = target.flatten() != -100
    tokens, classes = x.flatten(0, 1)[kept], target.flatten()[kept]
    positions = None if weight is None else float(weight[classes].mean())
    alone = said(dynamics, positions)
    wanted = gradients(copy.deepcopy(path), loss, tokens, classes, alone, stack=False)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.norm() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13)


def said(dynamics: Any, positions: float | None) -> Any:
    if isinstance(dynamics, ws.substrates.Delayed):
        return ws.substrates.Delayed(said(dynamics.inner, positions), dynamics.ticks)
    return type(dynamics)(**{**vars(dynamics), "positions": positions})


@pytest.mark.parametrize("length", [1, 4, 16])
def test_what_is_not_known_can_be_said(length: int) -> None:
    """A loss of the user's own over tokens: with `positions` its relaxation does not depend on the sequences either."""

    def own(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target)

    path = network()
    x, target = torch.randn(16, 6, dtype=torch.float64), torch.randint(CLASSES, (16,))
    as_sequences = x.reshape(-1, length, 6), target.reshape(-1, length)
    found = gradients(path, own, *as_sequences, ws.PredictiveCoding(rate=0.2, positions=float(length)))
    wanted = gradients(copy.deepcopy(path), own, x, target, ws.PredictiveCoding(rate=0.2))
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13)


def test_estimated_rates_do_not_depend_on_the_length_of_sequences() -> None:
    path, (x, target) = network(), data()
    chain = ws.Chain(path, nn.CrossEntropyLoss())
    for rule in (ws.PredictiveCoding(), ws.AugmentedLagrangian()):
        pairs = (x, target), (x.flatten(0, 1), target.flatten())
        rates = [vars(ws.calibrate(chain, *pair, rule))["rate"] for pair in pairs]
        assert rates[0] == pytest.approx(rates[1], rel=0.02)


def test_positions_are_refused_where_they_mean_nothing() -> None:
    for make in (ws.PredictiveCoding, ws.AugmentedLagrangian, ws.Wave):
        with pytest.raises(ws.errors.InputError, match="positions must be a positive finite number, got 0"):
            make(positions=0.0)
        with pytest.raises(ws.errors.InputError, match="positions has no effect with averaged=False"):
            make(positions=3.0, averaged=False)


def test_stages_are_told_the_positions_and_then_relax_as_one() -> None:
    path, (x, target) = network(), data()
    chain, rule, stop = ws.Chain(path, nn.CrossEntropyLoss()), ws.PredictiveCoding(rate=0.2), ws.Stop(max_ticks=7)
    with pytest.raises(ws.errors.InputError, match="how many positions of a sample"):
        ws.pipeline.relax(chain, 2, x, target, rule, stop=stop)
    known = ws.calibrate(chain, x, target, rule)
    staged = ws.pipeline.relax(chain, 2, x, target, known, stop=stop)
    whole = ws.relax(chain, x, target, rule, stop=stop, stack=False)
    for one, other in zip(staged.fields.costates, whole.costates, strict=True):
        assert torch.equal(one, other)

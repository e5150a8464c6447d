"""On networks of others a right step is not told to be too long, and one of three times that is."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

import worldsheet as ws


class Logits(nn.Module):
    """A classifier that returns what a loss reads."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x).logits
        return out


def bert() -> tuple[nn.Module, Tensor]:
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=50,
    )
    config.num_labels = 5
    return BertForSequenceClassification(config), torch.randint(0, 50, (8, 12))


def resnet() -> tuple[nn.Module, Tensor]:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.num_labels = 5
    return ResNetForImageClassification(config), torch.randn(8, 3, 32, 32)


@pytest.mark.parametrize("make", [bert, resnet])
def test_a_right_step_is_quiet_and_three_times_that_is_told(make: Any) -> None:
    torch.manual_seed(0)
    inner, x = make()
    chain = ws.Chain(Logits(inner.eval()), nn.CrossEntropyLoss())
    target = torch.randint(0, 5, (8,))
    right = ws.calibrate(chain, x, target, ws.PredictiveCoding())
    assert isinstance(right, ws.PredictiveCoding)
    assert isinstance(right.rate, float)
    for factor in (1.0, 3.0):
        rule = ws.PredictiveCoding(rate=factor * right.rate)
        outcome = ws.relax(chain, x, target, rule, stop=ws.Stop(max_ticks=12)).outcome
        told = outcome.growing or outcome.status is ws.Status.DIVERGED
        assert told == (factor > 1), outcome

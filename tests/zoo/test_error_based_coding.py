"""As the precision grows, error-based coding tends to backprop's gradient, on models that others wrote."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetForImageClassification

import worldsheet as ws
from nets import DOUBLE
from worldsheet.dynamics import ErrorBasedCoding
from zoo.answers import SEED, Make, Problem, assert_same, autograd, left_by, made, own_loss, seed_all


def gpt2() -> Problem:
    """With dropout, and an embedding that is also the head."""
    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    ids = torch.randint(0, 50, (3, 8))
    return Problem(GPT2LMHeadModel(config).double().train(), {"input_ids": ids, "labels": ids})


def resnet() -> Problem:
    """With batch statistics."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.num_labels = 3
    images, labels = torch.randn(4, 3, 16, 16, dtype=DOUBLE), torch.randint(0, 3, (4,))
    return Problem(ResNetForImageClassification(config).double().train(), {"pixel_values": images, "labels": labels})


@pytest.mark.parametrize("make", [gpt2, resnet])
def test_at_high_precision_it_is_backprop(make: Make) -> None:
    problem = made(make)
    seed_all(SEED)
    rule = ErrorBasedCoding(0.5, precision=1e10)
    loss = ws.backward(ws.Chain(problem.module, own_loss), problem.x, None, rule, stop=ws.Stop(max_ticks=40))
    assert_same(left_by(problem, loss), autograd(make), tol=1e-7)

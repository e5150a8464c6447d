"""GPT-2 with adapters of `peft`: they learn, what they adapt is frozen."""

from functools import partial
from typing import Any

import pytest

pytest.importorskip("peft")
pytest.importorskip("transformers")

import peft
from torch import nn

import worldsheet as ws
from nets import DOUBLE, random_fields
from zoo.answers import Problem, assert_backprop, assert_same, autograd, everywhere, made, relaxed
from zoo.attention_models import gpt2

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted(train: bool, attention: str = "eager") -> Problem:
    model, x = gpt2(attention)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        lora_dropout=0.2,
        target_modules=["c_attn", "c_fc"],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    return Problem(peft.get_peft_model(model, config).to(DOUBLE).train(train), x)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])
def test_only_adapters_learn_and_as_under_autograd(train: bool, attention: str, blocks: Any) -> None:
    make = partial(adapted, train, attention)
    learned = {name for name, gradient in autograd(make).gradients.items() if gradient is not None}
    assert learned == {name for name, _ in made(make).module.named_parameters() if "lora_" in name}
    assert_backprop(make, blocks=blocks)


def test_random_fields_become_those_of_backprop_in_adapters() -> None:
    make = partial(adapted, True)
    like, _ = relaxed(make)
    _, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert_same(ours, autograd(make), 1e-9)


def test_frozen_embeddings_are_no_sites() -> None:
    problem = made(partial(adapted, True))
    table = ws.Chain(problem.module, problem.loss).sites(problem.x)
    found = [problem.module.get_submodule(row.name) for row in table]
    assert not any(isinstance(part, nn.Embedding) for part in found)
    assert [row.reads for row in table] == [(place,) for place in range(len(found))]

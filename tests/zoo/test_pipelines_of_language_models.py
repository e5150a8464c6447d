"""Llama and GPT-2 of `transformers` in stages, their blocks named in order: what training the model itself gives."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.pipeline import GlobalNorm, Locked, Pipeline

transformers = pytest.importorskip("transformers")

WORDS = 50


class LlamaStem(nn.Module):
    """Tokens and positions, which all blocks read."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.embed_tokens, self.rotary_emb = body.embed_tokens, body.rotary_emb

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        x = self.embed_tokens(tokens)
        return {"x": x, "rotary": self.rotary_emb(x, torch.arange(tokens.shape[1])[None])}


class LlamaBlock(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "x": self.layer(state["x"], position_embeddings=state["rotary"])}


class LlamaHead(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.lm_head = model.model.norm, model.lm_head

    def forward(self, state: dict[str, Any]) -> Tensor:
        logits: Tensor = self.lm_head(self.norm(state["x"]))
        return logits


class GPT2Stem(nn.Module):
    def __init__(self, body: Any) -> None:
        super().__init__()
        self.wte, self.wpe = body.wte, body.wpe

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        return x


def llama(tied: bool) -> tuple[Any, Callable[[Any], list[nn.Module]]]:
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config), lambda model: [
        LlamaStem(model.model),
        *map(LlamaBlock, model.model.layers),
        LlamaHead(model),
    ]


def gpt2(tied: bool) -> tuple[Any, Callable[[Any], list[nn.Module]]]:
    sizes = {"vocab_size": WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 3, "n_head": 4}
    still = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}  # one process draws in another order
    config = transformers.GPT2Config(**sizes, **still, tie_word_embeddings=tied)
    return transformers.GPT2LMHeadModel(config), lambda model: [
        GPT2Stem(model.transformer),
        *model.transformer.h,
        nn.Sequential(model.transformer.ln_f, model.lm_head),
    ]


def next_word(logits: Tensor, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [llama, gpt2])
def test_blocks_that_are_named_in_order_train_as_the_model_does(kind: Any, tied: bool) -> None:
    torch.manual_seed(0)
    model, layers = kind(tied=tied)
    assert len(list(model.parameters(recurse=True))) == len(list(model.state_dict())) - tied
    twin = copy.deepcopy(model.train())
    texts = torch.randint(0, WORDS, (8, 10)).split(2)
    make, clip = partial(torch.optim.AdamW, lr=1e-2), GlobalNorm(0.5)
    pipeline = Pipeline(ws.Chain(layers(model), next_word), 5, optimizer=make, clip=clip, schedule=Locked(2))
    losses = pipeline.train([(text, text) for text in texts]).losses
    one, expected = make(twin.parameters()), []
    for number, text in enumerate(texts):
        loss = twin(input_ids=text, labels=text, use_cache=False).loss
        expected.append(loss.item())
        (loss / 2).backward()
        if number % 2:
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            one.step()
            one.zero_grad()
    assert losses == pytest.approx(expected, rel=1e-6)
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=name)

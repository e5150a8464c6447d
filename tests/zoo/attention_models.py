"""Models of `transformers` as they are, with few and random weights, and something to call them with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nets import DOUBLE
from zoo.answers import Loss, Problem, own_loss

transformers = pytest.importorskip("transformers")

WORDS = 40
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}

Build = Callable[..., tuple[Any, dict[str, Any]]]


def words(*shape: int) -> Tensor:
    """None of the first three, which are marks."""
    return torch.randint(3, WORDS, shape)


def gpt2(attention: str = "eager", **other: Any) -> tuple[Any, dict[str, Any]]:
    sizes = {"vocab_size": WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2} | other
    config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, attn_implementation=attention)
    text = words(2, 7)
    return transformers.GPT2LMHeadModel(config), {"input_ids": text, "labels": text}


def bert(kind: str, attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    config = transformers.BertConfig(
        **TEXT, vocab_size=WORDS, max_position_embeddings=16, attn_implementation=attention
    )
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    return getattr(transformers, kind)(config), {"input_ids": words(2, 7), "attention_mask": mask}


def bert_masked(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    model, x = bert("BertForMaskedLM", attention)
    labels = torch.where(torch.rand(2, 7) < 0.5, words(2, 7), -100)
    return model, x | {"labels": labels}


def bert_answers(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    model, x = bert("BertForQuestionAnswering", attention)
    return model, x | {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}


def t5(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    sizes = {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, attn_implementation=attention)
    return transformers.T5ForConditionalGeneration(config), {"input_ids": words(2, 7), "labels": words(2, 5)}


def decoder(kind: str, attention: str = "eager", **other: Any) -> tuple[Any, dict[str, Any]]:
    """Of Llama's family; its own default has no dropout."""
    config = getattr(transformers, f"{kind}Config")(
        **TEXT,
        vocab_size=WORDS,
        num_key_value_heads=1,
        max_position_embeddings=16,
        attention_dropout=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=attention,
        **other,
    )
    text = words(2, 7)
    return getattr(transformers, f"{kind}ForCausalLM")(config), {"input_ids": text, "labels": text}


def llama(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    return decoder("Llama", attention)


def mistral(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    return decoder("Mistral", attention, sliding_window=4)


def gemma2() -> tuple[Any, dict[str, Any]]:
    """Its attention is capped, which torch's fused one cannot do."""
    return decoder("Gemma2", head_dim=8, query_pre_attn_scalar=8, sliding_window=4)


def mixtral(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    """With the loss of its router. Grouped products of experts, the default, take no float64."""
    own = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True, "router_jitter_noise": 0.1}
    return decoder("Mixtral", attention, **own, router_aux_loss_coef=0.5, experts_implementation="eager")


def clip(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    own = TEXT | {"attention_dropout": 0.1}
    text = own | {"vocab_size": WORDS, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1}
    config = transformers.CLIPConfig(
        text_config=text | {"eos_token_id": 2},
        vision_config=own | {"image_size": 8, "patch_size": 4},
        projection_dim=12,
        attn_implementation=attention,
    )
    images = torch.randn(3, 3, 8, 8, dtype=DOUBLE)
    return transformers.CLIPModel(config), {"input_ids": words(3, 7), "pixel_values": images, "return_loss": True}


def vit(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    config = transformers.ViTConfig(
        **TEXT,
        image_size=8,
        patch_size=4,
        num_labels=5,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        attn_implementation=attention,
    )
    images = torch.randn(2, 3, 8, 8, dtype=DOUBLE)
    return transformers.ViTForImageClassification(config), {"pixel_values": images, "labels": torch.tensor([1, 3])}


def segformer() -> tuple[Any, dict[str, Any]]:
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 2],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=4,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        drop_path_rate=0.3,
    )
    images, labels = torch.randn(2, 3, 16, 16, dtype=DOUBLE), torch.randint(0, 4, (2, 16, 16))
    return transformers.SegformerForSemanticSegmentation(config), {"pixel_values": images, "labels": labels}


def whisper(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    """Leaves out whole layers and stretches of its input at random."""
    config = transformers.WhisperConfig(
        vocab_size=WORDS,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=10,
        max_target_positions=16,
        dropout=0.1,
        attention_dropout=0.1,
        encoder_layerdrop=0.3,
        decoder_layerdrop=0.3,
        apply_spec_augment=True,
        mask_time_length=2,
        mask_feature_length=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        attn_implementation=attention,
    )
    sound = torch.randn(2, 8, 20, dtype=DOUBLE)
    return transformers.WhisperForConditionalGeneration(config), {"input_features": sound, "labels": words(2, 5)}


def wav2vec2(attention: str = "eager") -> tuple[Any, dict[str, Any]]:
    """Leaves out whole layers and stretches of its input at random, with numpy's generator among others."""
    config = transformers.Wav2Vec2Config(
        **TEXT,
        vocab_size=WORDS,
        conv_dim=(8, 8),
        conv_kernel=(5, 3),
        conv_stride=(3, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_length=2,
        mask_time_prob=0.2,
        layerdrop=0.3,
        final_dropout=0.1,
        pad_token_id=0,
        attn_implementation=attention,
    )
    sound = torch.randn(2, 120, dtype=DOUBLE)
    return transformers.Wav2Vec2ForCTC(config), {"input_values": sound, "labels": words(2, 4)}


def mamba() -> tuple[Any, dict[str, Any]]:
    config = transformers.MambaConfig(vocab_size=WORDS, hidden_size=16, state_size=4, num_hidden_layers=2)
    text = words(2, 7)
    return transformers.MambaForCausalLM(config), {"input_ids": text, "labels": text}


def rwkv() -> tuple[Any, dict[str, Any]]:
    """In eval mode its first forward divides weights, in place."""
    config = transformers.RwkvConfig(
        vocab_size=WORDS, context_length=16, hidden_size=16, num_hidden_layers=2, rescale_every=1
    )
    text = words(2, 7)
    return transformers.RwkvForCausalLM(config), {"input_ids": text, "labels": text}


TWO_KINDS: dict[str, Build] = {
    "gpt2": gpt2,
    "bert-masked": bert_masked,
    "bert-answers": bert_answers,
    "t5": t5,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "clip": clip,
    "vit": vit,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
}
"""Models with both kinds of attention: written out, and torch's fused one."""

ONE_KIND: dict[str, Build] = {"gemma2": gemma2, "segformer": segformer, "mamba": mamba, "rwkv": rwkv}

BUILDS: dict[str, tuple[Build, tuple[str, ...]]] = {
    **{f"{name}-{kind}": (build, (kind,)) for name, build in TWO_KINDS.items() for kind in ("eager", "sdpa")},
    **{name: (build, ()) for name, build in ONE_KIND.items()},
}


def problem(name: str, *, train: bool, loss: Loss = own_loss, **more: Any) -> Problem:
    """The model of this name in float64, with further arguments for its call."""
    build, attention = BUILDS[name]
    model, x = build(*attention)
    if name == "rwkv" and not train:
        more["use_cache"] = False  # it writes into its cache, and then autograd cannot go back
    return Problem(model.to(DOUBLE).train(train), x | more, loss=loss)


def without_cache(name: str) -> Problem:
    """In train mode, with nothing kept for a next word: a second call of one block adds to what the first has kept."""
    caches = name.partition("-")[0] in (
        "gpt2",
        "t5",
        "llama",
        "mistral",
        "mixtral",
        "gemma2",
        "whisper",
        "mamba",
        "rwkv",
    )
    more: dict[str, Any] = {"use_cache": False} if caches else {}
    return problem(name, train=True, **more)


def tolerance(name: str) -> float:
    """Mixtral's norms and router are in float32 whatever its weights are, and its loss reads the router inside a block.

    What comes back from there and what comes back through the block are then added behind float32 and not before it.
    """
    if name.startswith("t5"):
        return 1e-7  # its normalisation works in float32, and is pulled back through once for each of its readers
    return 1e-5 if name.startswith("mixtral") else 1e-10


def hidden(output: Any) -> list[Tensor]:
    """All hidden states in an output, those of its parts included."""
    states: list[Tensor] = []
    for name, value in output.items():
        if isinstance(value, transformers.utils.ModelOutput):
            states += hidden(value)
        elif name.endswith("hidden_states"):
            states += value
    return states


def loss_of_everything(output: Any, target: Any) -> Tensor:
    """The model's own loss and one that reads the hidden states."""
    states = hidden(output)
    assert len(states) > 1
    return output.loss + sum((state * state.detach().cos()).mean() for state in states)

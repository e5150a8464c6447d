"""Image models of `timm`, with fewer channels."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import worldsheet as ws
from nets import DOUBLE, random_fields
from zoo.answers import Problem, assert_backprop, assert_same, autograd, everywhere, made, relaxed

TRANSFORMER = {"embed_dim": 16, "depth": 2, "num_heads": 2}

MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (8, 8, 16, 16), "drop_path_rate": 0.2},
    "vit_tiny_patch16_224": TRANSFORMER | {"img_size": 16, "patch_size": 8, "attn_drop_rate": 0.1, "init_values": 0.5},
    "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16), "drop_path_rate": 0.2},
    "test_efficientnet": {"drop_path_rate": 0.2},
}

modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
models = pytest.mark.parametrize("name", MODELS)


def problem(timm: Any, name: str, train: bool) -> Problem:
    model = timm.create_model(name, num_classes=5, drop_rate=0.1, **MODELS[name]).to(DOUBLE).train(train)
    size = MODELS[name].get("img_size", 32)
    images = torch.randn(3, 3, size, size, dtype=DOUBLE)
    return Problem(model, images.requires_grad_(), torch.tensor([0, 2, 4]), F.cross_entropy)


@modes
@models
@pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])
def test_an_image_model_learns_as_under_autograd(timm: Any, name: str, train: bool, blocks: Any) -> None:
    assert_backprop(partial(problem, timm, name, train), blocks=blocks)


@models
def test_random_fields_of_an_image_model_become_those_of_backprop(timm: Any, name: str) -> None:
    make = partial(problem, timm, name, True)
    like, _ = relaxed(make)
    _, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert_same(ours, autograd(make), 1e-9)


def test_the_sites_of_a_residual_network_are_its_blocks_and_what_is_outside_of_them(timm: Any) -> None:
    own = made(partial(problem, timm, "resnet18", True))
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    table = ws.Chain(own.module, own.loss).sites(own.x)
    assert [row.name for row in table] == ["conv1", *blocks, "fc"]
    assert [row.reads for row in table] == [(place,) for place in range(len(table))]

"""Names and numbers of a recipe: what is refused, and what they stand for."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from worldsheet.core.errors import InputError
from worldsheet.schedules import Sweep, Synchronous, Wavefront
from worldsheet_lab.data import DataSet
from worldsheet_lab.recipes import Recipe, recipe_for
from worldsheet_lab.streams import drawing, order, seed_of


@pytest.mark.parametrize(
    ("field", "name", "known", "remedy"),
    [
        ("data", "digit", "digits, mnist, fashion-mnist, cifar10", "did you mean 'digits'?"),
        ("architecture", "CNN", "mlp, cnn", "did you mean 'cnn'?"),
        ("activation", "rely", "tanh, relu", "did you mean 'relu'?"),
        ("optimizer", "adamm", "sgd, momentum, adam, adamw", "did you mean 'adam'?"),
        ("schedule", "sync", "wavefront, synchronous, sweep", "did you mean 'synchronous'?"),
        ("dtype", "float16", "float32, float64", "did you mean 'float64'?"),
        ("dtype", "int", "float32, float64", "choose one of these names"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tiny: Recipe, field: str, name: str, known: str, remedy: str) -> None:
    changed: Callable[..., Recipe] = partial(replace, tiny)
    with pytest.raises(InputError) as refusal:
        changed(**{field: name})
    assert refusal.value.problem.endswith(f"is called {name!r}")
    assert refusal.value.accepted == known
    assert refusal.value.remedy == remedy


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"depth": 1}, "depth must be at least 2, got 1"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"train_size": 0}, "train_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"compare_every": -1}, "compare_every must be at least 0, got -1"),
        ({"threads": -1}, "threads must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"rate": 2.0}, "Dyadic: rate must be strictly between 0 and 2, got 2.0"),
        ({"rate": 0.5, "schedule": "wavefront"}, "schedule 'wavefront' needs rate 1, got 0.5"),
        ({"device": "gpu"}, "device 'gpu' cannot be used: "),
    ],
)
def test_a_number_out_of_range_is_named(changes: dict[str, Any], given: str) -> None:
    with pytest.raises(InputError) as refusal:
        recipe_for("digits", changes)
    assert refusal.value.problem.startswith(given)


def test_a_rate_other_than_one_brings_its_own_schedule() -> None:
    assert recipe_for("digits", {"rate": 0.9}).when() == Synchronous()
    assert recipe_for("digits", {"rate": 0.9, "schedule": "sweep"}).when() == Sweep(count=None)
    assert recipe_for("digits").when() == Wavefront()
    assert recipe_for("digits", {"schedule": "sweep"}).when() == Sweep()


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion-mnist", "cifar10"])
def test_a_recipe_survives_json(data: str) -> None:
    recipe = recipe_for(data, {"lr": 0.1 + 0.2, "train_size": 77})
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"depth": "nine"}, "depth is 'nine': input should be a valid integer"),
        ({"depth": 2.5}, "depth is 2.5: input should be a valid integer"),
        ({"lr": True}, "lr is True: input should be a valid number"),
        ({"colour": "red"}, "colour is 'red': unexpected keyword argument"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_an_altered_recipe_is_refused(tiny: Recipe, changes: dict[str, Any], given: str) -> None:
    with pytest.raises(InputError) as refusal:
        Recipe.from_json(json.dumps({**json.loads(tiny.to_json()), **changes}))
    assert refusal.value.problem == f"the recipe cannot be read: {given}"


def test_a_recipe_that_lacks_a_member_is_refused(tiny: Recipe) -> None:
    kept = {name: value for name, value in json.loads(tiny.to_json()).items() if name not in ("depth", "lr")}
    with pytest.raises(InputError, match=r"^the recipe cannot be read: depth is missing; lr is missing\n"):
        Recipe.from_json(json.dumps(kept))


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^the recipe cannot be read: "):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0}),
        ("momentum", torch.optim.SGD, {"momentum": 0.9}),
        ("adam", torch.optim.Adam, {"weight_decay": 0}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.01}),
    ],
)
def test_optimizers_by_name(tiny: Recipe, name: str, kind: type, settings: dict[str, Any]) -> None:
    optimizer = replace(tiny, optimizer=name, lr=0.25).optimiser([nn.Parameter(torch.ones(1))])
    assert type(optimizer) is kind
    assert {**settings, "lr": 0.25}.items() <= optimizer.param_groups[0].items()


def test_the_seed_decides_the_start_weights(tiny: Recipe, digits: DataSet) -> None:
    torch.manual_seed(1)
    first = tiny.model(digits).state_dict()
    torch.manual_seed(2)
    second, other = tiny.model(digits).state_dict(), replace(tiny, seed=1).model(digits).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.linear.weight"], other["0.linear.weight"])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_states_keep_their_size_in_depth(digits: DataSet, activation: str) -> None:
    model = recipe_for("digits", {"depth": 30, "activation": activation, "dropout": 0.0}).model(digits)
    sizes = []
    state = digits.train_images
    for site in list(model.requires_grad_(False))[:-1]:
        state = site(state)
        sizes.append(float(state.square().mean().sqrt()))
    assert max(sizes) / min(sizes) < 4


def test_a_small_vgg_halves_the_image_and_doubles_the_channels(digits: DataSet) -> None:
    model = recipe_for("digits", {"architecture": "cnn", "depth": 9, "width": 4}).model(digits)
    shapes, state = [], digits.train_images[:3]
    for site in model:
        state = site(state)
        shapes.append(tuple(state.shape[1:]))
    assert shapes == [
        *[(4, 8, 8), (4, 4, 4), (8, 4, 4), (8, 2, 2), (16, 2, 2), (16, 2, 2), (16, 2, 2), (16, 2, 2)],
        (10,),
    ]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert order(0, 0, 1000).sort().values.tolist() == list(range(1000))
    torch.manual_seed(5)
    assert torch.equal(order(3, 4, 1000), order(3, 4, 1000))
    assert not torch.equal(order(3, 4, 1000), order(3, 5, 1000))
    assert not torch.equal(order(3, 4, 1000), order(4, 3, 1000))


def test_seeds_stay_what_they_are_between_versions() -> None:
    assert seed_of(0, "order", 0) == 3955691223199900983
    assert seed_of(7, "weights") == 5482817872936928246


def test_drawing_leaves_the_generator_of_the_process_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with drawing(9, torch.device("cpu")):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with drawing(9, torch.device("cpu")):
        assert torch.equal(torch.rand(3), first)

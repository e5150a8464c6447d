"""Models of `transformers` as they are: `ws.backward` leaves what `loss.backward()` leaves."""

from functools import partial
from typing import Any

import pytest

pytest.importorskip("transformers")

from zoo.answers import assert_backprop, everywhere
from zoo.attention_models import BUILDS, loss_of_everything, problem, tolerance, without_cache

modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
models = pytest.mark.parametrize("name", BUILDS)


@modes
@models
@pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])
def test_a_model_learns_from_its_own_loss_as_under_autograd(name: str, train: bool, blocks: Any) -> None:
    assert_backprop(partial(problem, name, train=train), tolerance(name), blocks)


@modes
@models
@pytest.mark.usefixtures("full_precision")
def test_a_loss_may_read_hidden_states_too(name: str, train: bool) -> None:
    assert_backprop(partial(problem, name, train=train, loss=loss_of_everything, output_hidden_states=True))


@models
@pytest.mark.usefixtures("full_precision")
def test_blocks_may_be_called_again_instead_of_kept(name: str) -> None:
    assert_backprop(partial(without_cache, name), recompute=True)

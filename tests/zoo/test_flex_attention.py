"""Attention whose scores a user's own function changes: torch's FlexAttention, not compiled."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from zoo.answers import Problem, assert_backprop, everywhere, made, square

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Biased(nn.Module):
    """Self-attention of two heads, each with a slope of its own over distance."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 96), nn.Linear(32, 3)
        self.slopes = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.into(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)

        def nearer(score: Tensor, batch: Tensor, head: Tensor, place: Tensor, other: Tensor) -> Tensor:
            return score - self.slopes[head] * (place - other).abs()

        found = flex_attention(queries, keys, values, score_mod=nearer)
        assert isinstance(found, Tensor)
        return self.out(found.transpose(1, 2).flatten(-2))


def problem() -> Problem:
    x, target = torch.randn(2, 16, 4, device=DEVICE), torch.randn(2, 16, 3, device=DEVICE)
    return Problem(Biased().to(DEVICE), x, target, square)


@pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])
def test_attention_with_slopes_learns_as_under_autograd(blocks: Any) -> None:
    try:
        made(problem).called().backward()
    except NotImplementedError as error:
        pytest.skip(f"autograd itself cannot: {error}")
    assert_backprop(problem, 1e-5, blocks)

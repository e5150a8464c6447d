"""What `Recurrent` cannot do is refused when it is made or called, with the way out."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import assert_tells
from worldsheet.nn import Method, Recurrent

PACKED = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])


@pytest.mark.parametrize(
    ("call", "fragments"),
    [
        (lambda: Recurrent(torch.tanh), ("must be an nn.Module", "nn.GRU")),  # type: ignore[arg-type]
        (lambda: Recurrent(nn.LSTM(3, 4, proj_size=2)), ("proj_size", "nn.Linear")),
        (lambda: Recurrent(nn.GRU(3, 4), window=1), ("window", "leave it out")),
        (lambda: Recurrent(nn.GRU(3, 4))(PACKED), ("packed", "pad_packed_sequence")),
        (lambda: Recurrent(nn.GRU(3, 4))(torch.ones(5, 2, 3, dtype=torch.int64)), ("floating", "embed")),
        (lambda: Recurrent(nn.GRU(3, 4), method=Method.SCAN)(torch.ones(5, 2, 7)), ("reads 3 numbers", "input_size")),
        (
            lambda: Recurrent(nn.GRU(3, 4), method=Method.SCAN)(torch.ones(5, 2, 3), torch.ones(2, 2, 4)),
            ("(1, 2, 4)", "leave it out"),
        ),
        (lambda: Recurrent(nn.GRUCell(3, 4))(torch.ones(5, 3)), ("all steps and samples", "x[:, None]")),
        (lambda: Recurrent(nn.GRUCell(3, 4))(torch.ones(5, 2, 3), torch.ones(2, 5)), ("(2, 4)",)),
        (lambda: Recurrent(nn.Bilinear(3, 4, 4))(torch.ones(5, 2, 3)), ("is not known", "size=")),
        (
            lambda: Recurrent(nn.Bilinear(3, 4, 5), size=4, method=Method.SCAN)(torch.ones(5, 2, 3)),
            ("returned shape", "new state"),
        ),
        (
            lambda: Recurrent(nn.Bilinear(3, 4, 4), size=4, method=Method.COMPILED)(torch.ones(5, 2, 3)),
            ("torch's own cells", "leave method out"),
        ),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(call: Callable[[], object], fragments: tuple[str, ...]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        call()
    assert_tells(refusal.value, *fragments)

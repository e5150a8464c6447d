"""The size of a message, site by site also where equal sites move as one tensor."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.core.types import AnyState
from worldsheet.problem import View


@final
class _Everywhere(Sequence[float]):
    """The number 1 for each of as many sites as anybody asks for."""

    def __getitem__(self, index: int | slice) -> Any:
        return [1.0] * (index.stop - index.start) if isinstance(index, slice) else 1.0

    def __len__(self) -> int:
        return 1 << 30


_ONES = _Everywhere()


def mean_square(message: AnyState, view: View) -> Tensor:
    """The mean square of a site's message; shaped to multiply it."""
    return message.square().mean() if _single(view) else message.square().mean(_inner(message), keepdim=True)


def largest(message: AnyState, view: View) -> Tensor:
    """The largest size of any entry of a site's message; shaped to multiply it."""
    return message.abs().amax() if _single(view) else torch.amax(message.abs(), _inner(message), keepdim=True)


def _single(view: View) -> bool:
    return not isinstance(view.own(_ONES), Tensor)


def _inner(message: AnyState) -> list[int]:
    return list(range(1, message.dim()))

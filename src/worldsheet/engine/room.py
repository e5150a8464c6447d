"""Memory that is used again at every tick."""

from typing import final

import torch
from torch import Tensor


@final
class Room:
    """Room for one tensor with a row for each of up to so many sites, taken when it is first needed.

    A large new tensor costs more than what is computed into it: the operating system hands it out page by page.

    Args:
        sites: how many rows there may be.
    """

    __slots__ = ("_held", "_sites")

    def __init__(self, sites: int) -> None:
        self._sites = sites
        self._held: Tensor | None = None

    def like(self, tensor: Tensor) -> Tensor:
        """Room for a tensor of this shape and dtype, whose first dimension counts sites."""
        held = self._held
        if held is None or held.shape[1:] != tensor.shape[1:] or held.dtype != tensor.dtype:
            held = self._held = torch.empty((self._sites, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device)
        return held if held.shape[0] == tensor.shape[0] else held[: tensor.shape[0]]

    def rows(self, count: int) -> Tensor | None:
        """So many rows of the shape that was asked for before; None if none was."""
        return None if self._held is None else self._held[:count]

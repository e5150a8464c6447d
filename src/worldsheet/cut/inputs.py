"""What a module is called with, as it was before the first call."""

from copy import deepcopy
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.core.private_torch import tree_flatten, tree_unflatten

_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)


@final
class Inputs:
    """An input that every run finds as the first did, even if the forward writes into it.

    Tensors that require grad are leaves and cannot be written into. Other objects, caches for example, are copied.

    Args:
        x: a pytree of tensors, numbers and other objects.
    """

    def __init__(self, x: Any) -> None:
        self._own, self._spec = tree_flatten(x)
        self._kept = [_copy(leaf) for leaf in self._own]
        self._versions = [leaf._version if isinstance(leaf, Tensor) else 0 for leaf in self._own]

    def again(self) -> Any:
        """The input for one more run."""
        pairs = zip(self._own, self._kept, self._versions, strict=True)
        return tree_unflatten([self._fresh(*row) for row in pairs], self._spec)

    def undo(self) -> None:
        """Make the tensors what they were."""
        for own, kept, version in zip(self._own, self._kept, self._versions, strict=True):
            if isinstance(own, Tensor) and own._version != version:
                own.copy_(kept)

    def _fresh(self, own: Any, kept: Any, version: int) -> Any:
        if isinstance(own, Tensor) and own._version == version:
            return own
        return _copy(kept)


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf if leaf.requires_grad else leaf.clone()
    if isinstance(leaf, _PLAIN):
        return leaf
    try:
        return deepcopy(leaf)
    except Exception:  # whatever an object of the user's answers that cannot be copied
        return leaf

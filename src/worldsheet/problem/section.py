"""A site made of several operations of a traced module."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from worldsheet.core.shapes import Point


@final
class Section(nn.Module):
    """Some operations of a user's forward, on the user's own submodules and parameters.

    Args:
        body: the operations.
        kind: what it is called in messages, besides its name.
        draws: whether one of its operations draws random numbers.
        foreign: whether one of its functions is not torch's.
    """

    def __init__(self, body: fx.GraphModule, kind: str, *, draws: bool, foreign: bool) -> None:
        super().__init__()
        self.body = body
        self.kind = kind
        self.draws = draws
        self.foreign = foreign

    def forward(self, *points: Point) -> Any:
        """The operations in order: a state, or the module's whole output for the loss.

        Raises:
            RuntimeError: an operation that fails, told by its name.
        """
        try:
            return self.body.forward(*points)
        except Exception as error:  # whatever one of the operations raises
            raise RuntimeError(f"{_failing(self.body, points)}: {error}") from error


@final
class Pack(nn.Module):
    """Several tensors as one, so that a site which makes several has one state.

    Args:
        value: what is packed, with tensors that have its shapes.
    """

    def __init__(self, value: Any) -> None:
        super().__init__()
        leaves, self.spec = pytree.tree_flatten(value)
        self.shapes = [leaf.shape if isinstance(leaf, Tensor) else None for leaf in leaves]
        self.others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        tensors = [shape for shape in self.shapes if shape is not None]
        rows = {shape[0] if shape else 0 for shape in tensors}
        self.lead = (rows.pop(),) if len(rows) == 1 and 0 not in rows else ()

    def forward(self, value: Any) -> Tensor:
        """One row per sample if all have as many, else a single row."""
        tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
        return torch.cat([tensor.reshape(*self.lead, -1) for tensor in tensors], dim=-1)

    def unpack(self, packed: Tensor) -> Any:
        """The tensors as they were."""
        sizes = [shape.numel() // (self.lead[0] if self.lead else 1) for shape in self.shapes if shape is not None]
        parts = iter(torch.split(packed, sizes, dim=-1))
        pairs = zip(self.shapes, self.others, strict=True)
        leaves = [other if shape is None else next(parts).reshape(shape) for shape, other in pairs]
        return pytree.tree_unflatten(leaves, self.spec)


@final
class Unpack(nn.Module):
    """The inverse of a `Pack`."""

    def __init__(self, pack: Pack) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, packed: Tensor) -> Any:
        """Views."""
        return self.pack.unpack(packed)


class _Locating(fx.Interpreter):
    """Runs a graph node by node."""

    at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        return super().run_node(n)


def _failing(body: fx.GraphModule, points: Sequence[Point]) -> str:
    """The name of the first operation that fails."""
    run = _Locating(body)
    try:
        run.run(*points)
    except Exception:
        return run.at
    return "an operation that failed once"

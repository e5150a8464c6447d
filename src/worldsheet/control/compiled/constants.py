"""What compiled code holds of tensors that are no arguments of its function, and whether that still is true."""

from collections.abc import Sequence
from operator import attrgetter
from typing import final

import torch
from torch import Tensor
from torch.fx import GraphModule

from worldsheet.core.errors import InputError


@final
class Constants:
    """The tensors that a function closes over, with the values that code made of it has.

    Args:
        tensors: what it closes over.
        others: what functions close over whose code is called.
    """

    def __init__(self, tensors: Sequence[Tensor], others: "Sequence[Constants]" = ()) -> None:
        self._others = tuple(others)
        self._tensors = list(tensors)
        self._values = [tensor.detach().clone() for tensor in self._tensors]

    @staticmethod
    def of(graph: GraphModule) -> "Constants":
        """Those of a traced function."""
        names = sorted({node.target for node in graph.graph.nodes if node.op == "get_attr"})
        found = [attrgetter(name)(graph) for name in names]
        return Constants([tensor for tensor in found if isinstance(tensor, Tensor)])

    def check(self) -> None:
        """Compare.

        Raises:
            InputError: a tensor that has changed.
        """
        for other in self._others:
            other.check()
        for tensor, value in zip(self._tensors, self._values, strict=True):
            if not torch.equal(tensor, value) and not torch.allclose(tensor, value, 0.0, 0.0, equal_nan=True):
                shape = tuple(tensor.shape)
                raise InputError(
                    f"the problem's functions read a tensor of shape {shape}, which has changed since they were "
                    "compiled",
                    "tensors that stay as they are",
                    "hand over what changes as Problem.parameters, give the problem a new Compiled(), or leave it out "
                    "while the tensor is learned",
                )

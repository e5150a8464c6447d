"""One layer at one point: the only place where torch.autograd works for a relaxation, one layer at a time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter


class Pull(NamedTuple):
    """A pulled-back credit.

    Attributes:
        inputs: Jᵀ·credit for each input of the layer; None where the layer does not depend on it.
        efforts: ∂f/∂θᵀ·credit (4) for each parameter, None where a parameter was not used; None if not asked for.
    """

    inputs: tuple[Tensor | None, ...]
    efforts: tuple[Tensor | None, ...] | None


@final
class Evaluation:
    """f_l at given points, with the graph of this one layer for its vector-Jacobian products.

    Args:
        function: the layer.
        points: its inputs; a floating or complex one may be pulled back to.
        differentiate: for each point, whether pull-backs to it will be asked for.
        parameters: the layer's parameters that require grad.
    """

    __slots__ = ("_graph", "_leaves", "_parameters", "output", "points", "spent")

    def __init__(
        self,
        function: Callable[..., Tensor],
        points: Sequence[Tensor],
        differentiate: Sequence[bool],
        parameters: Sequence[Parameter],
    ) -> None:
        self.points = tuple(points)
        self._parameters = parameters
        self._leaves = [
            point.detach().requires_grad_(wanted) for point, wanted in zip(points, differentiate, strict=True)
        ]
        if torch.is_grad_enabled():
            self._graph = function(*self._leaves)
        else:
            with torch.enable_grad():
                self._graph = function(*self._leaves)
        self.output = self._graph.detach()
        self.spent = False

    def is_at(self, points: Sequence[Tensor]) -> bool:
        """Whether this evaluation was made from these very tensors."""
        for mine, other in zip(self.points, points, strict=True):  # noqa: SIM110  all() costs a generator per message
            if mine is not other:
                return False
        return True

    def pull(self, credit: Tensor, *, effort: bool, keep: bool) -> Pull:
        """Pull a credit back to the inputs and, with `effort`, to the parameters, in one go.

        Args:
            credit: covector at the output.
            effort: whether to pull back to the parameters too.
            keep: whether the graph will be pulled through again; otherwise it is freed and the evaluation spent.
        """
        self.spent = not keep
        graph, leaves = self._graph, self._leaves
        if not keep:
            self._graph, self._leaves = self.output, []
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        count = len(wanted)
        if effort:
            wanted += self._parameters
        if not wanted or not graph.requires_grad:
            return Pull((None,) * len(leaves), (None,) * len(self._parameters) if effort else None)
        # torch.autograd.grad, less its checks of what the engine has made itself: they cost a third of a narrow layer
        pulled: tuple[Tensor | None, ...] = torch.autograd.Variable._execution_engine.run_backward(
            (graph,), (credit,), keep, False, (*wanted,), allow_unreachable=True, accumulate_grad=False
        )
        inputs = pulled[:count]
        if count < len(leaves):
            found = iter(inputs)
            inputs = tuple(next(found) if leaf.requires_grad else None for leaf in leaves)
        return Pull(inputs, pulled[count:] if effort else None)

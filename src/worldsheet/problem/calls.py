"""Calling the user's layers and loss, and refusing what cannot be right with both neighbours' names."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from typing_extensions import override

from worldsheet.core.bundle import bundled
from worldsheet.core.errors import LayerError, WorldsheetError
from worldsheet.core.private_torch import tree_leaves, tree_map
from worldsheet.core.problem import Problem
from worldsheet.core.types import Point, State
from worldsheet.cut import in_words, no_scalar, unequal_shapes
from worldsheet.layers.losses import Cost, cost_of
from worldsheet.layers.replay import Replay
from worldsheet.problem.chain import Chain


@final
class BoundLayers(Problem):
    """The functions of one relaxation: layers 1..L, and the cost C as layer L + 1 above the output.

    Args:
        chain: the layers and the loss.
        target: what the loss compares the output with.

    Attributes:
        head: L + 1, the number of the cost.
        traits: what was found about each function, `traits[layer - 1]`.
        replay: makes repeated evaluations draw the same numbers and move buffers once.
        cost: the cost's closed form, if it has one and nothing listens to its calls.
    """

    def __init__(self, chain: Chain, target: Any) -> None:
        self._layers = chain.layers
        functions: list[Callable[..., Any]] = [*(layer.module for layer in self._layers), chain.loss]
        self.chain = chain
        self.target = target
        self.head = len(functions)
        watched = bool(_has_any_global_hook())  # type: ignore[no-untyped-call]
        self.traits = [layer.survey.look(watched) for layer in self._layers]
        self.traits.append(chain.loss_survey.look(watched))
        self.replay = Replay(functions, self.traits)
        self._functions = [
            partial(self.replay, index) if traits.random or traits.buffers else function
            for index, (function, traits) in enumerate(zip(functions, self.traits, strict=True))
        ]
        self.cost: Cost | None = None if self.traits[-1].watched else cost_of(chain.loss)

    @property
    def searches(self) -> bool:
        """Whether the loss may read tensors that require grad and are not its own parameters."""
        return self.traits[-1].foreign or not isinstance(self.chain.loss, nn.Module) or _requires_grad(self.target)

    def has_efforts(self, layer: int) -> bool:
        """Whether a layer, or the cost, has leaf tensors to pull back to."""
        return bool(self.traits[layer - 1].parameters) or (layer == self.head and self.searches)

    def whole(self, x: Tensor) -> Tensor:
        """The cost as one function of the input, recorded end to end, drawing what was drawn: for the oracle."""
        with torch.enable_grad():
            state = x.detach()
            for layer in range(1, self.head + 1):
                state = self.function(layer)(state)
            return state

    @override
    def undo(self) -> None:
        self.replay.undo()

    def function(self, layer: int) -> Callable[..., Tensor]:
        """f_l as a function of its points, or the cost as a function of the output, in whatever grad mode is on.

        Calling it raises `LayerError` where the user's code raises, or returns anything but one differentiable tensor.
        """
        return self._cost if layer == self.head else partial(self._layer, layer)

    def blame(self, layer: int, points: Sequence[Any], error: Exception) -> LayerError:
        """The error of a layer or of the loss, told with what it was given."""
        if layer == self.head:
            return self.chain.loss_error(points[0], self.target, error)
        return self.chain.layer_error(layer, points[0], error)

    def nested(self, layer: int) -> Callable[[Any], Any]:
        """f_l, or the cost, as a function of one or several tensors, in tuples, lists and dicts; likewise returned.

        Calling it raises `LayerError` where the user's code raises, or returns something else.
        """
        return self._cost if layer == self.head else partial(self._called_nested, layer)

    def _called(self, layer: int, point: Any) -> Any:
        info = self._layers[layer - 1]
        training = info.module.training
        writes = info.writes_input.get(training)
        argument = point if writes is False else _cloned(point)
        versions = _versions(argument) if writes is None else []
        try:
            output = self._functions[layer - 1](argument)
        except WorldsheetError:
            raise
        except Exception as error:  # whatever a user's layer raises is told with its neighbours' names
            raise self.blame(layer, (point,), error) from error
        if writes is None:
            info.writes_input[training] = versions != _versions(argument)
        return output

    def _called_nested(self, layer: int, value: Any) -> Any:
        output = self._called(layer, value)
        try:
            bundled(output)
        except TypeError as error:
            raise LayerError(
                f"layer {self._layers[layer - 1].label} returned {error}, which cannot be handed on",
                "tensors, numbers, strings and None, in tuples, lists and dicts with strings for keys",
                "return a tuple or a dict of what the next layer reads",
            ) from error
        return output

    def _layer(self, layer: int, point: Point) -> State:
        info, output = self._layers[layer - 1], self._called(layer, point)
        if not isinstance(output, Tensor):
            raise LayerError(
                f"layer {info.label} returned {in_words(output)}, not a tensor",
                "one tensor",
                "wrap it in a module whose forward returns the tensor that the next layer reads",
            )
        if not (output.is_floating_point() or output.is_complex()):
            raise LayerError(
                f"layer {info.label} returned dtype {output.dtype}, which has no derivatives",
                "a floating or complex dtype",
                "join it with the next layer in one nn.Sequential, so that the integers stay inside one site",
            )
        return output

    def _cost(self, output: Any) -> Tensor:
        if (unequal := unequal_shapes(self.chain.loss, output, self.target)) is not None:
            raise unequal
        try:
            cost = self._functions[-1](output, self.target)
        except Exception as error:  # whatever a user's loss raises is told with what it was given
            raise self.blame(self.head, (output,), error) from error
        if not isinstance(cost, Tensor) or cost.numel() != 1:
            raise no_scalar(self.chain.loss_name, cost)
        if not cost.requires_grad and _requires_grad(output):
            raise LayerError(
                f"loss {self.chain.loss_name} returned a value that does not depend on the output",
                "a loss that torch can differentiate by the output",
                "compute it from the output without .detach(), .item(), argmax or numpy",
            )
        return cost.reshape(())


def _cloned(point: Any) -> Any:
    if isinstance(point, Tensor):
        return point.clone()
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, point)


def _versions(point: Any) -> list[int]:
    if isinstance(point, Tensor):
        return [point._version]
    return [leaf._version for leaf in tree_leaves(point) if isinstance(leaf, Tensor)]


def _requires_grad(target: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(target))

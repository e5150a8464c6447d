"""Calling the user's layers and loss, and refusing what cannot be right with both neighbours' names."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from worldsheet.core.errors import LayerError, WorldsheetError
from worldsheet.core.shapes import Point, State
from worldsheet.problem.chain import Chain
from worldsheet.problem.costs import Cost, cost_of
from worldsheet.problem.replay import Replay


@final
class Caller:
    """The functions of one relaxation: layers 1..L, and the cost C as layer L + 1 above the output.

    Args:
        chain: the layers and the loss.
        target: what the loss compares the output with.
        inputs: how many tensors the input has.

    Attributes:
        head: L + 1, the number of the cost.
        traits: what was found about each function, `traits[layer - 1]`.
        replay: makes repeated evaluations draw the same numbers and move buffers once.
        parents: by layer, whose states it reads, the cost those of the outputs: sites, 0 for the input's first tensor,
            and numbers from L + 1 for its others.
        children: by site or input tensor, which layers read it, the cost included.
        cost: the cost's closed form, if it has one and nothing listens to its calls.
    """

    def __init__(self, chain: Chain, target: Any, inputs: int = 1) -> None:
        functions: list[Callable[..., Any]] = [*(layer.module for layer in chain.layers), chain.loss]
        self.chain = chain
        self.target = target
        self.head = len(functions)
        watched = bool(_has_any_global_hook())  # type: ignore[no-untyped-call]
        self.traits = [layer.survey.look(watched) for layer in chain.layers]
        self.traits.append(chain.loss_survey.look(watched))
        self.replay = Replay(functions, self.traits)
        self._functions = [
            partial(self.replay, index) if traits.random or traits.buffers else function
            for index, (function, traits) in enumerate(zip(functions, self.traits, strict=True))
        ]
        self._finish = chain.graph.finish
        self.cost: Cost | None = None if self._finish is not None or self.traits[-1].watched else cost_of(chain.loss)
        self.parents: Sequence[tuple[int, ...]] = chain.topology.reads
        self.children: Sequence[tuple[int, ...]] = chain.topology.readers
        if inputs > 1 or self._finish is not None:
            self.parents = chain.graph.places(inputs)
            self.children = readers_of(self.parents, self.head + inputs - 1)

    def function(self, layer: int) -> Callable[..., Tensor]:
        """f_l as a function of its points, or the cost as a function of the output, in whatever grad mode is on.

        Calling it raises `LayerError` where the user's code raises, or returns anything but one differentiable tensor.
        """
        return self._cost if layer == self.head else partial(self._layer, layer)

    def blame(self, layer: int, points: Sequence[Tensor], error: Exception) -> LayerError:
        """The error of a layer or of the loss, told with what it was given."""
        if layer == self.head:
            return self.chain.blame_loss(points, self.target, error)
        return self.chain.blame_layer(layer, points, error)

    def _layer(self, layer: int, *points: Point) -> State:
        info = self.chain.layers[layer - 1]
        training = info.module.training
        writes = info.writes_input.get(training)
        arguments = points if writes is False else [point.clone() for point in points]
        versions = [argument._version for argument in arguments] if writes is None else []
        try:
            output = self._functions[layer - 1](*arguments)
        except WorldsheetError:
            raise
        except Exception as error:  # whatever a user's layer raises is told with its neighbours' names
            raise self.blame(layer, points, error) from error
        if writes is None:
            info.writes_input[training] = versions != [argument._version for argument in arguments]
        if not isinstance(output, Tensor):
            raise LayerError(
                f"layer {info.label} returned {type(output).__name__}",
                "one tensor",
                "wrap it in a module whose forward returns the tensor that the next layer reads",
            )
        if not (output.is_floating_point() or output.is_complex()):
            raise LayerError(
                f"layer {info.label} returned dtype {output.dtype}",
                "a floating or complex dtype: costates need derivatives",
                "join it with the next layer in one nn.Sequential, so that the integers stay inside one site",
            )
        return output

    def _cost(self, *states: Point) -> Tensor:
        try:
            output = states[0] if self._finish is None else self._finish(*states)
            cost = self._functions[-1](output, self.target)
        except Exception as error:  # whatever a user's loss raises is told with what it was given
            raise self.blame(self.head, states, error) from error
        if not isinstance(cost, Tensor) or cost.numel() != 1:
            shape = f"shape {tuple(cost.shape)}" if isinstance(cost, Tensor) else type(cost).__name__
            raise LayerError(
                f"loss {self.chain.loss_name} returned {shape}",
                "a scalar tensor",
                "average or sum over the batch: reduction='mean' or 'sum'",
            )
        if not cost.requires_grad and any(state.requires_grad for state in states):
            raise LayerError(
                f"loss {self.chain.loss_name} returned a value that does not depend on the output",
                "a loss that torch can differentiate by the output",
                "compute it from the output without .detach(), .item(), argmax or numpy",
            )
        return cost.reshape(())


def readers_of(parents: Sequence[tuple[int, ...]], size: int) -> tuple[tuple[int, ...], ...]:
    """By place, the layers that read it, each once."""
    return tuple(tuple(layer for layer, read in enumerate(parents) if place in read) for place in range(size))

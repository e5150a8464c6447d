"""One packet's way through the layers of a stage, up and back."""

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.bundle import Bundle, Parcel, unwrapped
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.layers import Efforts, Nested
from worldsheet.problem import BoundLayers, Chain


class Pulled(NamedTuple):
    """What came of pulling a credit back through one layer.

    Attributes:
        credit: of the layer's input; None where nothing depends on it, or nobody asks.
        parameters: of the layer.
        efforts: gives theirs, when it is called.
    """

    credit: Parcel | None
    parameters: tuple[Tensor, ...]
    efforts: Efforts


@final
class Carriage:
    """Evaluates the layers of a stage one after the other, in closed form or by what torch records, and pulls back.

    Args:
        chain: the layers and the loss.
        target: what the loss compares the output with.
        point: what the first layer is given.
        to_input: whether the credit of that is asked for, where it wants one.
    """

    def __init__(self, chain: Chain, target: Any, point: Parcel, *, to_input: bool) -> None:
        self._caller = BoundLayers(chain, target)
        self._caller.cost = (
            None  # torch's own backward takes the share of a packet along, to the bits of share times loss
        )
        asked = to_input and (point.is_wanted if isinstance(point, Bundle) else True)
        self._messages = Messages(self._caller, everywhere=False, to_input=asked)
        self._nested: dict[int, Nested] = {}
        self._points: list[Parcel] = [point]

    def rehearsed(self, device: torch.device) -> AbstractContextManager[None]:
        """Evaluations in this context leave generators and buffers as they were."""
        return self._caller.replay.rehearsed(device)

    @property
    def output(self) -> Parcel:
        """Of the layer that was evaluated last."""
        return self._points[-1]

    def evaluate(self, layer: int) -> None:
        """Let the output of the layer below, or the input, pass through a layer: 1..L, in order, each once.

        Raises:
            LayerError: a layer that fails on what it receives.
        """
        point = self._points[-1]
        if isinstance(point, Tensor) and self._messages.closed(layer, point):
            self._points.append(self._messages.evaluation(layer, [point]).output)
            return
        made = self._nested[layer] = self._recorded(layer, point)
        self._points.append(made.output)

    def price(self) -> Tensor:
        """The loss of the output, once.

        Raises:
            LayerError: a loss that fails on it.
        """
        head = self._caller.head
        made = self._nested[head] = self._recorded(head, self._points[-1])
        assert isinstance(made.output, Tensor)
        return made.output

    def pull(self, layer: int, credit: Parcel) -> Pulled:
        """Pull a credit back through a layer, or the loss, in the order opposite to that of the way up.

        Raises:
            LayerError: a pull-back that torch refuses.
        """
        nested, point = self._nested.pop(layer, None), self._points[layer - 1]
        if nested is None:
            assert isinstance(point, Tensor)
            assert isinstance(credit, Tensor)
            below, efforts = self._messages.split_backward(layer, [point], credit)
            return Pulled(below, self._caller.traits[layer - 1].parameters, efforts)
        try:
            pulled, efforts = nested.split_backward(credit)
        except RuntimeError as error:
            raise self._caller.blame(layer, (unwrapped(point),), error) from error
        return Pulled(pulled, nested.parameters, efforts)

    def _recorded(self, layer: int, point: Parcel) -> Nested:
        return Nested(
            self._caller.nested(layer),
            point,
            differentiate=self._messages.wanted[layer - 1],
            traits=self._caller.traits[layer - 1],
            searched=layer == self._caller.head and self._caller.searches,
        )

"""How a network hears its stream: inputs that are held, targets that are compared, and what is unknown of both."""

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming import door
from worldsheet.streaming.potential import Potential
from worldsheet.streaming.shapes import Neurons, PerStream, Signal, Target
from worldsheet.streaming.streams import Missing, Streams


class Reading(NamedTuple):
    """Outputs compared with a target.

    Attributes:
        output: of the output neurons.
        loss: V per stream; None without a target.
        gradient: ∂V/∂output; None without a target.
    """

    output: Signal
    loss: PerStream | None
    gradient: Signal | None


@final
class Lesson:
    """A target at an instant, from which a network learns what it is told and no more.

    Args:
        target: None for no lesson.
        unknown: streams whose target is not known, where it holds harmless numbers; None for no stream.
        outputs: which neurons are compared.
        potential: how.
    """

    def __init__(self, target: Target | None, unknown: Tensor | None, outputs: Tensor, potential: Potential) -> None:
        self._target = target
        self._unknown = unknown
        self._outputs = outputs
        self._potential = potential

    def read(self, state: Neurons) -> Reading:
        """Compare the outputs with the target."""
        output = state.index_select(1, self._outputs)
        if self._target is None:
            return Reading(output, None, None)
        loss, gradient = self._potential.value_and_gradient(output, self._target)
        if self._unknown is not None:
            loss, gradient = loss.masked_fill(self._unknown, 0), gradient.masked_fill(self._unknown[:, None], 0)
        return Reading(output, loss, gradient)

    def blame(self, force: Neurons, reading: Reading) -> Neurons:
        """Add ∂V/∂x to the force on the output neurons, in its own memory."""
        return force if reading.gradient is None else force.index_add_(1, self._outputs, reading.gradient)


@final
class Ears:
    """Where a network is held and compared.

    Args:
        inputs: neurons that are held at the input.
        outputs: neurons that are compared with the target.
        streams: how many, and what to do about holes in them.
        potential: what a target looks like.
        device: of the network.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        streams: Streams,
        potential: Potential,
        device: torch.device,
    ) -> None:
        self._inputs = torch.tensor(list(inputs), dtype=torch.int64, device=device)
        self._outputs = torch.tensor(list(outputs), dtype=torch.int64, device=device)
        self._counts = len(inputs), len(outputs)
        self._streams = streams
        self._potential = potential

    def output(self, state: Neurons) -> Signal:
        """The states of the output neurons."""
        return state.index_select(1, self._outputs)

    def hold(self, state: Neurons, input: Tensor | None) -> Neurons:
        """The states in their own memory, those of the input neurons being the input; what is unknown of it stays.

        Raises:
            InputError: another shape, or NaN under `Missing.STOP`.
        """
        door.check_input(input, self._streams.count, self._counts[0])
        if input is None:
            return state
        given = door.like(input, state)
        if not door.all_finite(input):
            self._refuse_holes("input")
            given = torch.where(torch.isfinite(given), given, state.index_select(1, self._inputs))
        return state.index_copy_(1, self._inputs, given)

    def hear(self, state: Neurons, target: Tensor | None) -> Lesson:
        """The lesson of a target.

        Raises:
            InputError: another shape or kind, or NaN under `Missing.STOP`.
        """
        if target is None:
            return Lesson(None, None, self._outputs, self._potential)
        door.check_target(target, self._streams.count, self._counts[1], self._potential)
        given = door.like(target, state, kept=self._potential.classes)
        unknown = door.unknown_streams(target)
        if unknown is not None:
            self._refuse_holes("target")
            unknown = unknown.to(given.device)
            given = given.masked_fill(unknown if given.dim() == 1 else unknown[:, None], 0)
        return Lesson(given, unknown, self._outputs, self._potential)

    def _refuse_holes(self, name: str) -> None:
        if self._streams.missing is Missing.STOP:
            raise InputError(
                f"NaN, an infinity or an unknown class in the {name}",
                "numbers only, as the network was built with Missing.STOP",
                "clean the stream, or build it with Streams(missing=Missing.SKIP), which never learns from them",
            )


def has_holes(input: Tensor | None, target: Tensor | None) -> bool:
    """Whether anything in an instant of a stream is unknown."""
    blind = input is not None and not door.all_finite(input)
    return blind or (target is not None and door.unknown_streams(target) is not None)

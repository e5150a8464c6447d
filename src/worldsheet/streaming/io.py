"""How a network hears its stream: inputs that are held, targets that are compared, and what is unknown of both."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.config import MissingValues, Streams
from worldsheet.streaming.functional import NeuronModel, SpeedClasses
from worldsheet.streaming.graphs.connectivity import Connectivity
from worldsheet.streaming.potential import Potential
from worldsheet.streaming.shapes import Neurons, PerStream, Signal, TargetValues


def check_places(graph: Connectivity, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Inputs and outputs are different neurons of the graph, and every output can learn and hears the inputs.

    Raises:
        InputError: otherwise.
    """
    places = [*inputs, *outputs]
    strange = [place for place in places if not 0 <= place < graph.neurons]
    if strange or not outputs or len(set(places)) < len(places):
        raise InputError(
            f"inputs and outputs must be different neurons of the graph's {graph.neurons}, got inputs {list(inputs)} "
            f"and outputs {list(outputs)}",
            f"at least one output, no neuron named twice, all from 0 to {graph.neurons - 1}",
            f"leave out neuron {strange[0]}, which is not there" if strange else "name each input and output once",
        )
    degrees = graph.in_degrees()
    deaf = [place for place in outputs if not degrees[place]]
    if deaf:
        raise InputError(
            f"output neuron {deaf[0]} has no incoming edge",
            "outputs with at least one incoming edge: only edges can learn",
            f"add an edge into neuron {deaf[0]}",
        )
    if inputs:
        reached = graph.reached_from(torch.tensor(list(inputs), device=degrees.device))
        cut_off = [place for place in outputs if not reached[place]]
        if cut_off:
            raise InputError(
                f"no path leads from an input to output {cut_off[0]}",
                "outputs that some input can reach",
                "add edges on the way, or leave the inputs out if the output is to move by itself",
            )


def speeds(model: NeuronModel, neurons: int, inputs: Sequence[int], outputs: Sequence[int], like: Tensor) -> Tensor:
    """C for every neuron, 0 for those that are held at the input.

    Raises:
        InputError: a tensor of another length.
    """
    if isinstance(model.speed, SpeedClasses):
        found = model.speed.of(neurons, inputs, outputs)
    else:
        found = torch.as_tensor(model.speed, dtype=torch.float64).detach().clone()
    if found.shape not in {(), (neurons,)}:
        raise InputError(
            f"NeuronModel: speed must have one entry for each of {neurons} neurons, got shape {tuple(found.shape)}",
            f"shape ({neurons},)",
            "or give one number for all",
        )
    found = found.expand(neurons).to(like, copy=True)
    found[list(inputs)] = 0
    return found


def check_input(given: Tensor | None, streams: int, inputs: int) -> None:
    """One number per stream and input neuron.

    Raises:
        InputError: another shape, or no tensor where there are input neurons.
    """
    if given is not None:
        refuse_no_tensor("input", given)
    shape = None if given is None else given.shape
    if shape != (streams, inputs) and not (shape is None and not inputs):
        wanted = f"a tensor of shape ({streams}, {inputs}), one row per stream" if inputs else "None: no input neurons"
        found = "None" if given is None else f"shape {tuple(given.shape)}"
        raise InputError(
            f"input must have one row for each stream and one column for each of {inputs} input neurons, got {found}",
            wanted,
            "for one stream try input[None]",
        )


def refuse_no_tensor(name: str, given: object) -> None:
    """Lists, arrays and plain numbers.

    Raises:
        InputError: anything but a tensor.
    """
    if not isinstance(given, Tensor):
        raise InputError(
            f"the {name} must be a tensor, got an object of type {type(given).__name__}",
            "a torch.Tensor",
            "try torch.as_tensor(…)[None]",
        )


def check_target(given: Tensor, streams: int, outputs: int, potential: Potential) -> None:
    """One class per stream, or numbers in the shape of the outputs.

    Raises:
        InputError: another shape or kind, or a class that no output stands for.
    """
    refuse_no_tensor("target", given)
    whole = not given.is_floating_point()
    shape = (streams,) if potential.classes else (streams, outputs)
    if given.shape != shape or whole != potential.classes:
        kind = "whole numbers, one class per stream" if potential.classes else "floating-point numbers, one per output"
        raise InputError(
            f"the target does not fit the outputs and the potential: it has shape {tuple(given.shape)} and "
            f"{given.dtype}",
            f"{kind}, shape {shape}",
            "for one stream try [None]",
        )
    if whole and len(given) and int(given.max()) >= outputs:
        raise InputError(
            f"the target has class {int(given.max())}, but there are {outputs} outputs",
            f"classes 0 to {outputs - 1}, −1 for unknown",
            "add outputs, or number the classes from 0",
        )


def like(given: Tensor, state: Tensor, *, kept: bool = False) -> Tensor:
    """The given tensor where the states are and, unless its own dtype is kept, of their dtype."""
    if given.device == state.device and (kept or given.dtype == state.dtype) and not given.requires_grad:
        return given
    dtype = given.dtype if kept else state.dtype
    return given.detach().to(state.device, dtype, non_blocking=given.device.type == "cpu")


def unknown_streams(target: TargetValues) -> Tensor | None:
    """Which streams have a NaN, an infinity or a negative class in their target; None if no stream."""
    if all_finite(target) and (target.is_floating_point() or int(target.min()) >= 0):
        return None
    known = torch.isfinite(target) if target.is_floating_point() else target >= 0
    return ~known.flatten(1).all(1) if target.dim() > 1 else ~known


def all_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no infinity; the sum tells, if it does not overflow.

    Asked of a signal as it comes, which is the host's own most of the time: then no device has to be waited for.
    """
    return isfinite(float(values.sum())) or bool(torch.isfinite(values).all())


class Readout(NamedTuple):
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
class Target:
    """A target at an instant, from which a network learns what it is told and no more.

    Args:
        target: None for no lesson.
        unknown: streams whose target is not known, where it holds harmless numbers; None for no stream.
        outputs: which neurons are compared.
        potential: how.
    """

    def __init__(
        self, target: TargetValues | None, unknown: Tensor | None, outputs: Tensor, potential: Potential
    ) -> None:
        self._target = target
        self._unknown = unknown
        self._outputs = outputs
        self._potential = potential

    def read(self, state: Neurons) -> Readout:
        """Compare the outputs with the target."""
        output = state.index_select(1, self._outputs)
        if self._target is None:
            return Readout(output, None, None)
        loss, gradient = self._potential.value_and_gradient(output, self._target)
        if self._unknown is not None:
            loss, gradient = loss.masked_fill(self._unknown, 0), gradient.masked_fill(self._unknown[:, None], 0)
        return Readout(output, loss, gradient)

    def add_loss_gradient(self, force: Neurons, readout: Readout) -> Neurons:
        """Add ∂V/∂x to the force on the output neurons, in its own memory."""
        return force if readout.gradient is None else force.index_add_(1, self._outputs, readout.gradient)


@final
class StreamIO:
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
            InputError: another shape, or NaN under `MissingValues.STOP`.
        """
        check_input(input, self._streams.count, self._counts[0])
        if input is None:
            return state
        given = like(input, state)
        if not all_finite(input):
            self._refuse_holes("input")
            given = torch.where(torch.isfinite(given), given, state.index_select(1, self._inputs))
        return state.index_copy_(1, self._inputs, given)

    def target_of(self, state: Neurons, target: Tensor | None) -> Target:
        """The lesson of a target.

        Raises:
            InputError: another shape or kind, or NaN under `MissingValues.STOP`.
        """
        if target is None:
            return Target(None, None, self._outputs, self._potential)
        check_target(target, self._streams.count, self._counts[1], self._potential)
        given = like(target, state, kept=self._potential.classes)
        unknown = unknown_streams(target)
        if unknown is not None:
            self._refuse_holes("target")
            unknown = unknown.to(given.device)
            given = given.masked_fill(unknown if given.dim() == 1 else unknown[:, None], 0)
        return Target(given, unknown, self._outputs, self._potential)

    def _refuse_holes(self, name: str) -> None:
        if self._streams.missing is MissingValues.STOP:
            raise InputError(
                f"the {name} has a NaN, an infinity or an unknown class",
                "numbers only, as the network was built with MissingValues.STOP",
                "clean the stream, or build it with Streams(missing=MissingValues.SKIP), which never learns from them",
            )


def has_holes(input: Tensor | None, target: Tensor | None) -> bool:
    """Whether anything in an instant of a stream is unknown."""
    blind = input is not None and not all_finite(input)
    return blind or (target is not None and unknown_streams(target) is not None)

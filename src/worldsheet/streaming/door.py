"""What a network refuses, before it begins and at every step."""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.connectivity import Connectivity
from worldsheet.streaming.functional import Medium
from worldsheet.streaming.potential import Potential
from worldsheet.streaming.shapes import Target


def check_places(graph: Connectivity, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Inputs and outputs are different neurons of the graph, and every output can learn and hears the inputs.

    Raises:
        InputError: otherwise.
    """
    places = [*inputs, *outputs]
    strange = [place for place in places if not 0 <= place < graph.neurons]
    if strange or not outputs or len(set(places)) < len(places):
        raise InputError(
            f"inputs {list(inputs)} and outputs {list(outputs)} of {graph.neurons} neurons",
            f"at least one output, no neuron named twice, all from 0 to {graph.neurons - 1}",
            f"neuron {strange[0]} is not there" if strange else "name each input and output once",
        )
    degrees = graph.in_degrees()
    deaf = [place for place in outputs if not degrees[place]]
    if deaf:
        raise InputError(
            f"output {deaf[0]} has no parents",
            "outputs that listen to some neuron: only edges can learn",
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


def speeds(medium: Medium, neurons: int, like: Tensor) -> Tensor:
    """C for every neuron.

    Raises:
        InputError: a tensor of another length.
    """
    if isinstance(medium.speed, Tensor):
        if medium.speed.shape != (neurons,):
            raise InputError(
                f"speeds of shape {tuple(medium.speed.shape)}", f"one for each of {neurons} neurons", "or one number"
            )
        return medium.speed.to(like)
    return torch.full((neurons,), medium.speed, dtype=like.dtype, device=like.device)


def check_input(given: Tensor | None, streams: int, inputs: int) -> None:
    """One number per stream and input neuron.

    Raises:
        InputError: another shape, or no tensor where there are input neurons.
    """
    if given is not None:
        refuse_no_tensor("an input", given)
    shape = None if given is None else given.shape
    if shape != (streams, inputs) and not (shape is None and not inputs):
        wanted = f"a tensor of shape ({streams}, {inputs}), one row per stream" if inputs else "None: no input neurons"
        told = None if given is None else tuple(given.shape)
        raise InputError(f"an input of shape {told}", wanted, "for one stream try input[None]")


def refuse_no_tensor(name: str, given: object) -> None:
    """Lists, arrays and plain numbers.

    Raises:
        InputError: anything but a tensor.
    """
    if not isinstance(given, Tensor):
        raise InputError(f"{name} of type {type(given).__name__}", "a torch.Tensor", "try torch.as_tensor(…)[None]")


def check_target(given: Tensor, streams: int, outputs: int, potential: Potential) -> None:
    """One class per stream, or numbers in the shape of the outputs.

    Raises:
        InputError: another shape or kind, or a class that no output stands for.
    """
    refuse_no_tensor("a target", given)
    whole = not given.is_floating_point()
    shape = (streams,) if potential.classes else (streams, outputs)
    if given.shape != shape or whole != potential.classes:
        kind = "whole numbers, one class per stream" if potential.classes else "floating-point numbers, one per output"
        raise InputError(
            f"a target of shape {tuple(given.shape)} and {given.dtype}",
            f"{kind}, shape {shape}",
            "for one stream try [None]",
        )
    if whole and len(given) and int(given.max()) >= outputs:
        raise InputError(f"class {int(given.max())}", f"classes 0 to {outputs - 1}, −1 for unknown", "add outputs")


def like(given: Tensor, state: Tensor, *, kept: bool = False) -> Tensor:
    """The given tensor where the states are and, unless its own dtype is kept, of their dtype."""
    if given.device == state.device and (kept or given.dtype == state.dtype) and not given.requires_grad:
        return given
    dtype = given.dtype if kept else state.dtype
    return given.detach().to(state.device, dtype, non_blocking=given.device.type == "cpu")


def unknown_streams(target: Target) -> Tensor | None:
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

"""Refusals before a problem is solved: numbers that cannot be meant, functions that do not do what they should."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import is_transformed


@final
@dataclass(frozen=True)
class Called:
    """A function of the problem, by name, and the shape it should return; None leaves the last size open."""

    name: str
    function: Callable[..., Tensor]
    shape: tuple[int | None, ...]


def refuse_transforms() -> None:
    """Refuse to be called inside of torch.func.

    Raises:
        InputError: a transform is at work.
    """
    if is_transformed():
        raise InputError(
            "optimal control does not support transforms of torch.func: a solution is found by iteration, and its "
            "derivatives come of one more linear solve",
            "calls outside of torch.func.grad, vmap and their kin",
            "use torch.autograd.grad on the solution's cost, states or controls, and a batch of initial states or of "
            "parameters in the place of vmap",
        )


def check_numbers(initial_state: Tensor, control_size: int, steps: int) -> None:
    """Refuse an empty horizon, and a state that is no vector of real numbers."""
    if not isinstance(initial_state, Tensor):
        raise InputError(
            f"initial_state must be a tensor, got {type(initial_state).__name__}",
            "a floating-point tensor of shape (n,) or (..., n)",
            "write torch.tensor([1.0, 0.0], dtype=torch.float64)",
        )
    for name, number in (("control_size", control_size), ("steps", steps)):
        if type(number) is not int:
            whole = f"write {name}=int({number!r})"
            raise InputError(f"{name} must be a whole number, got {number!r}", "an int", whole)
    if initial_state.dim() == 0 or not initial_state.is_floating_point():
        raise InputError(
            "initial_state must be a tensor of real numbers with one dimension or more, "
            f"got shape {tuple(initial_state.shape)} and {initial_state.dtype}",
            "a floating-point tensor of shape (n,) or (..., n)",
            "write for example torch.tensor([0.0, 0.0])",
        )
    if 0 in initial_state.shape:
        raise InputError(
            f"initial_state is empty: its shape is {tuple(initial_state.shape)}",
            "sizes of at least 1",
            "check how it was made",
        )
    if bool((~initial_state.isfinite()).any(-1).all()):
        raise InputError("initial_state is NaN or infinite", "finite numbers", "check where it comes from")
    if steps < 1:
        raise InputError(
            f"steps must be at least 1, got {steps}", "a horizon of one stage or more", "use steps = duration / dt"
        )
    if control_size < 0:
        raise InputError(
            f"control_size must not be negative, got {control_size}",
            "the number of controls, 0 or more",
            "use the last size of u in dynamics(x, u, t)",
        )


def check_stage_lengths(dt: float | Tensor, steps: int) -> None:
    """Refuse a step that is no time, and another number of them than there are stages."""
    if not isinstance(dt, Tensor):
        if not (isfinite(dt) and dt > 0):
            raise InputError(
                f"dt must be positive and finite, got {dt}", "the time of one step", "use dt = duration / steps"
            )
        return
    if dt.shape != (steps,) or not dt.is_floating_point():
        raise InputError(
            f"dt must have one length for each of the {steps} stages, got shape {tuple(dt.shape)} and {dt.dtype}",
            f"a number, or a floating-point tensor of shape ({steps},)",
            "give all stages one length, or each its own",
        )
    if not bool((dt.isfinite() & (dt > 0)).all()):
        raise InputError("dt must be positive and finite at every stage", "times above 0", "leave out empty stages")


def check_call(called: Called, arguments: tuple[Tensor, ...]) -> None:
    """Call a function once and refuse what is no tensor, has a wrong shape or dtype, or lost its derivative."""
    leaves = tuple(argument.detach().clone().requires_grad_() for argument in arguments)
    with torch.enable_grad():
        value = _value(called, leaves)
    _check_shape(called, value, leaves)
    if not value.requires_grad and _depends(called, arguments, value):
        raise InputError(
            f"{called.name} changes with its arguments but has no derivative",
            "a function that autograd can follow",
            "keep .detach(), .item(), numpy and rounding out of it",
        )


def _value(called: Called, arguments: tuple[Tensor, ...]) -> Tensor:
    try:
        value = called.function(*arguments)
    except Exception as error:
        shapes = ", ".join(str(tuple(argument.shape)) for argument in arguments)
        raise InputError(
            f"{called.name} failed on arguments of shapes {shapes}: {type(error).__name__}: {error}",
            "a function of batched tensors that works along their last dimension",
            "write x[..., 0] instead of x[0], and torch.stack(…, -1)",
        ) from error
    if not isinstance(value, Tensor):
        raise InputError(
            f"{called.name} returned an object of type {type(value).__name__}, not a tensor",
            "one tensor",
            "join several parts with torch.cat or torch.stack(…, -1)",
        )
    return value


def _check_shape(called: Called, value: Tensor, arguments: tuple[Tensor, ...]) -> None:
    wanted = tuple(called.shape)
    open_ended = wanted and wanted[-1] is None
    same = (
        tuple(value.shape[:-1]) == wanted[:-1] and value.dim() == len(wanted) if open_ended else value.shape == wanted
    )
    if not same:
        names = ", ".join("any" if size is None else str(size) for size in wanted)
        shapes = ", ".join(str(tuple(argument.shape)) for argument in arguments)
        raise InputError(
            f"{called.name} returned shape {tuple(value.shape)} instead of ({names}) for arguments of shapes {shapes}",
            f"shape ({names})",
            "work along the last dimension and keep the others",
        )
    if value.dtype != arguments[0].dtype or value.device != arguments[0].device:
        raise InputError(
            f"{called.name} returned {value.dtype} on {value.device} instead of the initial state's dtype and device",
            f"{arguments[0].dtype} on {arguments[0].device}, as the initial state",
            "make the constants inside it in that dtype and on that device",
        )


def _depends(called: Called, arguments: tuple[Tensor, ...], value: Tensor) -> bool:
    """Whether a value without derivative changes when states and controls do."""
    moved = tuple(argument + 0.37 + 0.11 * torch.arange(argument.shape[-1]).to(argument) for argument in arguments[:2])
    with torch.no_grad():
        other = _value(called, (*moved[: len(arguments)], *arguments[2:]))
    return not torch.equal(other, value)

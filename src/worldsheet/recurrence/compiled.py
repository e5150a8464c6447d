"""Recurrent cells step by step in C, forward and backward: on a processor a loop costs what its arithmetic costs."""

import ctypes
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from worldsheet.core.errors import InputError
from worldsheet.core.machine_code import C_TYPES, COMPILERS, found_compiler, native_library
from worldsheet.recurrence.cells import GatedCell
from worldsheet.recurrence.once import refuse_second_derivative
from worldsheet.recurrence.types import Drive, States, Step

_SOURCE = Path(__file__).with_name("loop.c")
_NUMBERS = ("steps", "batch", "size", "cell")
_POINTERS = (
    "weight", "bias", "drive", "start", "states", "gates", "credit", "to_drive", "to_hidden", "to_start", "scratch",
)  # fmt: skip
_LANES = {torch.float64: 8, torch.float32: 16}


class _Task(ctypes.Structure):
    """The C structure of that name."""

    _fields_ = [(name, ctypes.c_long) for name in _NUMBERS] + [(name, ctypes.c_void_p) for name in _POINTERS]


@lru_cache(maxsize=2)
def _code(compiler: str, dtype: torch.dtype) -> Any:
    return native_library(_SOURCE.read_text(), compiler, dtype)


@cache
def _compiler() -> str | None:
    """Looked for once: looking costs more than a short loop."""
    return found_compiler()


def can_compile(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there is a C compiler, and the numbers are such as C has, in the memory of the processor."""
    return dtype in C_TYPES and device.type == "cpu" and _compiler() is not None


@final
@dataclass(frozen=True)
class NativeLoop:
    """The loop of one cell in C.

    Args:
        cell: whose weights it reads.
        code: the library.
    """

    cell: GatedCell
    code: Any

    @staticmethod
    def of(cell: GatedCell) -> "NativeLoop":
        """Compiled now, in about two seconds, or at an earlier time.

        Raises:
            InputError: no compiler, or numbers that C has not.
        """
        weight, compiler = cell.weight, _compiler()
        if compiler is None or not can_compile(weight.dtype, weight.device):
            raise InputError(
                f"a compiled loop needs a C compiler, which {'is there' if compiler else 'was not found'}, and float64 "
                f"or float32 on the cpu, got {weight.dtype} on {weight.device.type}",
                "float64 or float32 on the cpu, and one of the compilers " + ", ".join(COMPILERS),
                "leave method out, so that it is chosen, or install gcc",
            )
        return NativeLoop(cell, _code(compiler, weight.dtype))

    def states(self, drive: Drive, start: Step) -> States:
        """All states; autograd goes through by a second loop, backward."""
        cell = self.cell
        known = self, drive, start, cell.weight, cell.inner_bias
        states: States = _Loop.apply(*known)  # type: ignore[no-untyped-call]  # as torch leaves it
        return states

    def ahead(self, drive: Drive, start: Step, *, keep: bool) -> tuple[States, Tensor | None]:
        """All states and, if asked for, the gates."""
        steps, batch = drive.shape[:2]
        states = drive.new_empty(steps, batch, self.cell.size)
        gates = drive.new_empty(steps, batch, self.cell.kept) if keep and self.cell.kept else None
        columns = self._padded(self.cell.weight.detach().t())
        self._run(
            self.code.forward,
            weight=columns,
            bias=self.cell.inner_bias,
            drive=drive,
            start=start,
            states=states,
            gates=gates,
            scratch=drive.new_empty(batch * columns.shape[1]),
        )
        return states, gates

    def back(self, drive: Drive, start: Step, states: States, gates: Tensor | None, credit: States) -> "Efforts":
        """What of a credit reaches drive, hidden products and start."""
        batch, size = drive.shape[1], self.cell.size
        to_drive, to_start = torch.empty_like(drive), torch.empty_like(start)
        to_hidden = torch.empty_like(drive) if self.cell.inner_bias is not None else to_drive
        rows = self._padded(self.cell.weight.detach())
        self._run(
            self.code.backward,
            weight=rows,
            start=start,
            states=states,
            gates=gates,
            credit=credit,
            to_drive=to_drive,
            to_hidden=to_hidden,
            to_start=to_start,
            scratch=drive.new_empty(batch * (2 * size + rows.shape[1])),
        )
        return Efforts(to_drive, to_hidden, to_start)

    def _run(self, function: Any, *, states: States, **others: Tensor | None) -> None:
        """Call C with pointers to tensors, which are held meanwhile."""
        task = _Task(*states.shape[:2], self.cell.width, self.cell.kind.value)
        held = {name: None if tensor is None else tensor.contiguous() for name, tensor in others.items()}
        for name, tensor in (held | {"states": states}).items():
            setattr(task, name, None if tensor is None else tensor.data_ptr())
        function(ctypes.byref(task))

    @staticmethod
    def _padded(weight: Tensor) -> Tensor:
        """Rows filled up with zeros to whole vectors."""
        return F.pad(weight, (0, -weight.shape[1] % _LANES[weight.dtype])).contiguous()


@final
@dataclass(frozen=True)
class Efforts:
    """What the backward loop gives.

    Attributes:
        drive: covector of the drive.
        hidden: covector of W h.
        start: covector of the state before the first step.
    """

    drive: Drive
    hidden: Drive
    start: Step


@final
class _Loop(torch.autograd.Function):
    """The loop as one operation of autograd; sums over time are matrix products."""

    @staticmethod
    def forward(
        ctx: Any, loop: NativeLoop, drive: Drive, start: Step, weight: Tensor, inner_bias: Tensor | None
    ) -> States:
        del weight, inner_bias
        drive, start = drive.contiguous(), start.contiguous()
        states, gates = loop.ahead(drive, start, keep=any(ctx.needs_input_grad))
        ctx.loop = loop
        ctx.save_for_backward(drive, start, states, gates)
        return states

    @staticmethod
    def backward(ctx: Any, credit: States) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        drive, start, states, gates = ctx.saved_tensors
        found = ctx.loop.back(drive, start, states, gates, credit.contiguous())
        _, _, to_start, to_weight, to_bias = ctx.needs_input_grad
        width = ctx.loop.cell.width
        weight = bias = None
        if to_weight:
            weight = found.hidden[0].t() @ start[:, :width]
            weight.addmm_(found.hidden[1:].flatten(0, 1).t(), states[:-1, :, :width].flatten(0, 1))
        if to_bias:
            bias = found.hidden[..., 2 * width :].sum((0, 1))
        return None, found.drive, found.start if to_start else None, weight, bias

"""The Riccati recursion in C, for `Compiled()` on a processor: one problem after the other, a stage in the cache."""

import ctypes
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.control.compiled.calls import Argument, Callee, follows
from worldsheet.control.compiled.constants import Constants
from worldsheet.control.compiled.entries import Shape
from worldsheet.control.lqr.subproblem import Quadratic, Step
from worldsheet.core.errors import InputError
from worldsheet.core.machine_code import C_TYPES, COMPILERS, found_compiler, native_library

_LOCAL = ("hessian", "slope", "transition", "gap", "end_hessian", "end_slope", "regularizer", "opening")
_GIVEN = (*_LOCAL, "costate", "wanted", "last")
_MADE = ("shift", "states", "costates", "controls", "gains", "push", "fine")

_SOURCE = Path(__file__).with_name("riccati.c")

Call: TypeAlias = Callable[[Callee, Sequence[Tensor]], list[Tensor]]
"""How code is called with tensors."""


def _directly(code: Callee, given: Sequence[Tensor]) -> list[Tensor]:
    return code(*given)


@final
@dataclass(frozen=True)
class RegularizationSchedule:
    """Which shifts of the Hessians are tried: none or a third of the last, then, if wanted, smallest · ratio^i.

    Attributes:
        first: λ_0, (B, n); the entries of what is free of x_0 are to vanish.
        shift: the last ones, (B,).
        wanted: who climbs, (B,).
        smallest: the lowest rung; the last shift, where that is larger.
        ratio: from rung to rung.
        rungs: how many.
    """

    first: Tensor
    shift: Tensor
    wanted: Tensor
    smallest: float
    ratio: float
    tried: int


@final
class Recursion:
    """Machine code for (24), (23) and the ladder of shifts, made by the C compiler of this machine in about a second.

    Args:
        dtype: float64 or float32.
        sizes: (n, m) that it is made for; any if left out, which is slower.

    Raises:
        InputError: another dtype, or no C compiler.
    """

    def __init__(self, dtype: torch.dtype, sizes: tuple[int, int] | None = None) -> None:
        self._real = ctypes.c_double if dtype is torch.float64 else ctypes.c_float
        known = "" if sizes is None else f"#define SIZE {sizes[0]}\n#define CONTROLS {sizes[1]}\n"
        self._code = loaded(known + _SOURCE.read_text(), dtype)
        self._task = _task(self._real)
        self._call: Call = _directly

    def direction(
        self, local: Quadratic, schedule: RegularizationSchedule, *, free: int
    ) -> tuple[Step, Tensor, Tensor]:
        """Solve (22): the step, its shift and whether it is fine; the last `free` entries of δx_0 are chosen too."""
        given = [getattr(local, name) for name in _LOCAL]
        more = (schedule.first, schedule.wanted, schedule.shift)
        ladder = (schedule.tried, schedule.smallest, schedule.ratio)
        made = self._call(_Pass(self._code, self._task, free, ladder), (*given, *more))
        shift, states, costates, controls, gains, _, fine = made
        return Step(states, costates, controls, gains), shift, fine

    def called_by(self, call: Call) -> "Recursion":
        """The same code, called in another way."""
        other = copy(self)
        other._call = call
        return other


@final
class _Pass(Callee):
    """Down the horizon and up again, from Newton's equations and a last shift to a shift, a step and if it is fine.

    Args:
        code: the library.
        task: its structure.
        free: how many of the last entries of δx_0 are chosen.
        ladder: rungs, the lowest and the ratio.
    """

    def __init__(self, code: Any, task: Any, free: int, ladder: tuple[int, float, float]) -> None:
        self._code, self._task, self._free, self._ladder = code, task, free, ladder
        self._constants = Constants(())

    @property
    @override
    def constants(self) -> Constants:
        return self._constants

    @property
    @override
    def address(self) -> int:
        return ctypes.cast(self._code.direction, ctypes.c_void_p).value or 0

    @override
    def reads(self, shape: Shape, strides: Shape) -> bool:
        return follows(shape, strides)

    @override
    def text(self, address: str, given: Sequence[Argument], made: Sequence[str]) -> str:
        stages, batch, n = given[3].shape
        tried, smallest, ratio = self._ladder
        numbers = (stages, batch, n, given[1].shape[-1] - n, self._free, tried)
        read = [f"(void *) ({one.pointer})" if prod(one.shape) else "0" for one in given]
        return (
            f"{{ struct {{ int numbers[6]; REAL first, ratio; void *pointers[{len(given) + len(made)}]; }} task = "
            f"{{{{{', '.join(map(str, numbers))}}}, {smallest!r}, {ratio!r}, {{{', '.join([*read, *made])}}}}}; "
            f"((void (*)(const void *)) {address})(&task); }}"
        )

    @override
    def __call__(self, *given: Tensor) -> list[Tensor]:
        stages, batch, n = given[3].shape
        m = given[1].shape[-1] - n
        shift, (tried, smallest, ratio) = given[-1], self._ladder
        shapes = ((stages + 1, batch, n), (stages + 1, batch, n), (stages, batch, m), (stages, batch, m, n))
        made = [torch.empty_like(shift), *map(shift.new_empty, shapes), shift.new_empty((stages, batch, m))]
        made.append(torch.empty_like(given[-2]))
        held = [part.contiguous() for part in given]
        pointers = (part.data_ptr() if part.numel() else None for part in (*held, *made))
        task = self._task(stages, batch, n, m, self._free, tried, smallest, ratio, *pointers)
        self._code.direction(ctypes.byref(task))
        return made


def _task(real: Any) -> Any:
    """The C structure of that name."""
    numbers = [(name, ctypes.c_int) for name in ("stages", "batch", "n", "m", "free", "tried")]
    reals = [(name, real) for name in ("first", "ratio")]
    pointers = [(name, ctypes.c_void_p) for name in (*_GIVEN, *_MADE)]
    return type("Task", (ctypes.Structure,), {"_fields_": numbers + reals + pointers})


def compiler(dtype: torch.dtype) -> str:
    """The C compiler of this machine.

    Raises:
        InputError: none, or a dtype that C has not.
    """
    found = found_compiler()
    if dtype not in C_TYPES or found is None:
        raise InputError(
            f"Compiled() does not support {dtype}" if found else "Compiled() needs a C compiler, and none was found",
            "float64 or float32, and one of the compilers " + ", ".join(COMPILERS),
            "convert the initial state, or leave Compiled() out" if found else "install gcc, or leave Compiled() out",
        )
    return found


def loaded(source: str, dtype: torch.dtype, effort: str = "-O3") -> Any:
    """C source, compiled for this machine, now or at an earlier time."""
    return native_library(source, compiler(dtype), dtype, effort)

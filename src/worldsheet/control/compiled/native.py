"""The Riccati recursion in C, for `Compiled()` on a processor: one problem after the other, a stage in the cache."""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.control.lqr.subproblem import Quadratic, Step
from worldsheet.core.errors import InputError
from worldsheet.core.machine_code import C_TYPES, COMPILERS, found_compiler, native_library

_LOCAL = ("hessian", "slope", "transition", "gap", "end_hessian", "end_slope", "regularizer", "opening")
_GIVEN = (*_LOCAL, "costate", "wanted")
_MADE = ("shift", "states", "costates", "controls", "gains", "push", "fine")

_SOURCE = Path(__file__).with_name("riccati.c")


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

    def direction(
        self, local: Quadratic, schedule: RegularizationSchedule, *, free: int
    ) -> tuple[Step, Tensor, Tensor]:
        """Solve (22): the step, its shift and whether it is fine; the last `free` entries of δx_0 are chosen too."""
        stages, batch, n = local.gap.shape
        m = local.slope.shape[-1] - n
        shift = schedule.shift
        made = {
            "shift": shift.clone(),
            "states": shift.new_empty(stages + 1, batch, n),
            "costates": shift.new_empty(stages + 1, batch, n),
            "controls": shift.new_empty(stages, batch, m),
            "gains": shift.new_zeros(stages, batch, m, n),
            "push": shift.new_empty(stages, batch, m),
            "fine": torch.empty_like(schedule.wanted),
        }
        given = (*(getattr(local, name) for name in _LOCAL), schedule.first, schedule.wanted)
        held = [part.contiguous() for part in given]
        pointers = (part.data_ptr() if part.numel() else None for part in (*held, *made.values()))
        task = self._task(stages, batch, n, m, free, schedule.tried, schedule.smallest, schedule.ratio, *pointers)
        self._code.direction(ctypes.byref(task))
        step = Step(made["states"], made["costates"], made["controls"], made["gains"])
        return step, made["shift"], made["fine"]


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

"""Straight-line machine code for a function of one stage, run over all stages of all problems, a few in step.

Stages are gone through at once, or one after the other where a stage begins with what the one before it has made.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor
from typing_extensions import override

from worldsheet.control.compiled.calls import Argument, Callee
from worldsheet.control.compiled.constants import Constants
from worldsheet.control.compiled.entries import Shape
from worldsheet.control.compiled.native import loaded
from worldsheet.control.compiled.recording import UnknownError
from worldsheet.control.compiled.scalar_ir import Scalars, scalars

_SOURCE = Path(__file__).with_name("simd.c")
_LARGE = 4_000  # operations from which on a compiler takes twice as long for code that is no faster
_LARGEST = 12_000  # operations; a C compiler takes minutes for more


@final
class Straight(Callee):
    """A function of fields at one stage, (1, 1, ·) each, for fields (B, N, ·) of one dtype.

    In turn, the first field is (B, 1, ·), what the first stage begins with; the first that the function returns is what
    the next stage begins with. Several problems are in step then, else several stages.

    Code has neither loops nor the operations that zeros and ones make void. So an infinity times a zero of the
    function's own is zero here.

    Args:
        function: of tensors (1, 1, ·), to tensors (1, 1, ...).
        fields: one stage of each.
        in_turn: whether stages follow each other.

    Raises:
        UnknownError: an operation without a scalar form, or too many of them.
        InputError: no C compiler, or a dtype that C has not.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], fields: list[Tensor], *, in_turn: bool = False
    ) -> None:
        like = fields[0]
        found, outputs, self._constants = scalars(function, fields)
        self._shapes = [part.shape[2:] for part in outputs]
        lines = list(_in_turn(found, outputs) if in_turn else _at_once(found, outputs))
        if len(lines) > _LARGEST:
            raise UnknownError(f"{len(lines)} operations")
        effort = "-O2" if len(lines) <= _LARGE else "-O1"
        self._code = loaded("\n".join([_SOURCE.read_text(), *lines]), like.dtype, effort)
        self._field: Any = type("Field", (ctypes.Structure,), {"_fields_": _FIELD})

    @property
    @override
    def constants(self) -> Constants:
        return self._constants

    @property
    @override
    def address(self) -> int:
        return ctypes.cast(self._code.straight, ctypes.c_void_p).value or 0

    @override
    def reads(self, shape: Shape, strides: Shape) -> bool:
        return shape[-1] == 1 or strides[-1] == 1

    @override
    def text(self, address: str, given: Sequence[Argument], made: Sequence[str]) -> str:
        batch, stages = given[-1].shape[:2]
        fields = ", ".join(f"{{{one.pointer}, {one.strides[0]}, {one.strides[1]}}}" for one in given)
        return (
            f"{{ const struct {{ const REAL *at; ptrdiff_t problem, stage; }} given[] = {{{fields}}}; "
            f"REAL *const made[] = {{{', '.join(made)}}}; "
            f"((void (*)(long, long, const void *, REAL *const *)) {address})({batch}, {stages}, given, made); }}"
        )

    @override
    def __call__(self, *fields: Tensor) -> list[Tensor]:
        batch, stages = fields[-1].shape[:2]
        held = [field if field.stride(-1) == 1 else field.contiguous() for field in fields]
        found = [held[0].new_empty((batch, stages, *shape)) for shape in self._shapes]
        rows: Any = self._field * len(held)
        given = rows(*((part.data_ptr(), part.stride(0), part.stride(1)) for part in held))
        made = (ctypes.c_void_p * len(found))(*(part.data_ptr() for part in found))
        self._code.straight(ctypes.c_long(batch), ctypes.c_long(stages), given, made)
        return found


def straight(
    function: Callable[..., tuple[Tensor, ...]], fields: list[Tensor], *, in_turn: bool = False
) -> Straight | None:
    """The code, or None where a function has no scalar form or too large a one.

    Raises:
        InputError: no C compiler, or a dtype that C has not.
    """
    try:
        return Straight(function, fields, in_turn=in_turn)
    except UnknownError:
        return None


_FIELD: list[tuple[str, Any]] = [("at", ctypes.c_void_p), ("problem", ctypes.c_ssize_t), ("stage", ctypes.c_ssize_t)]

_AT_ONCE = """
void straight(long batch, long stages, const Field *given, REAL *const *made) {
    const long count = batch * stages;
    for (long first = 0; first < count; first += LANES) {
        ptrdiff_t p[LANES], b[LANES], k[LANES];
        for (int i = 0; i < LANES; i++) {
            p[i] = first + i < count ? first + i : count - 1;
            b[i] = p[i] / stages;
            k[i] = p[i] % stages;
        }"""

_IN_TURN = """
void straight(long batch, long stages, const Field *given, REAL *const *made) {
    for (long first = 0; first < batch; first += LANES) {
        ptrdiff_t p[LANES], b[LANES], k[LANES];
        V carried[CARRIED];
        for (int i = 0; i < LANES; i++) {
            b[i] = first + i < batch ? first + i : batch - 1;
            k[i] = 0;
        }
        for (int entry = 0; entry < CARRIED; entry++) carried[entry] = LOAD(0, entry);
        for (long stage = 0; stage < stages; stage++) {
            for (int i = 0; i < LANES; i++) {
                k[i] = stage;
                p[i] = b[i] * stages + stage;
            }"""


def _at_once(found: Scalars, outputs: list[Tensor]) -> Iterator[str]:
    """Stages side by side."""
    yield _AT_ONCE
    yield from _stage(found, outputs, "LOAD(0, {})")
    yield "}}"


def _in_turn(found: Scalars, outputs: list[Tensor]) -> Iterator[str]:
    """Problems side by side, each stage after the one before."""
    yield f"#define CARRIED {outputs[0].numel()}{_IN_TURN}"
    yield from _stage(found, outputs, "carried[{}]")
    yield from (f"carried[{entry}] = t{number};" for entry, number in enumerate(outputs[0].flatten().tolist()))
    yield "}}}"


def _stage(found: Scalars, outputs: list[Tensor], first: str) -> Iterator[str]:
    """The function's text: what is needed of the table in its order, then what is returned."""
    for number in _needed(found, [number for part in outputs for number in part.flatten().tolist()]):
        yield f"V t{number} = {_text(found.table[number], first)};"
    for place, part in enumerate(outputs):
        numbers = part.flatten().tolist()
        yield f"for (int i = 0; i < LANES; i++) {{ REAL *to = made[{place}] + p[i] * {len(numbers)};"
        yield from (f"to[{entry}] = t{number}[i];" for entry, number in enumerate(numbers))
        yield "}"


def _text(row: tuple[Any, ...], first: str) -> str:
    operation, *parts = row
    if operation == "constant":
        return f"(V){{}} + (REAL){parts[0]!r}".replace("inf", "INFINITY").replace("nan", "NAN")
    if operation == "given":
        field, entry = parts
        return f"LOAD({field}, {entry})" if field else first.format(entry)
    names = [f"t{part}" for part in parts]
    if operation in {"+", "-", "*", "/"}:
        return f"{names[0]} {operation} {names[1]}"
    return f"l_{operation}({', '.join(names)})"


def _needed(found: Scalars, wanted: list[int]) -> list[int]:
    seen, open_ = set(wanted), list(set(wanted))
    while open_:
        operation, *parts = found.table[open_.pop()]
        if operation in {"constant", "given"}:
            continue
        fresh = set(parts) - seen
        seen |= fresh
        open_ += fresh
    return sorted(seen)

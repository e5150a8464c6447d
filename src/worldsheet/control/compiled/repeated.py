"""A function in C that is done again and again, to one problem after the other."""

import ctypes
from collections.abc import Callable
from math import prod
from typing import final

import torch
from torch import Tensor

from worldsheet.control.compiled.entries import Shape
from worldsheet.control.compiled.loops import RUN, Writer, real_of
from worldsheet.control.compiled.native import loaded
from worldsheet.control.compiled.recording import Recorder, UnknownError

_REPEAT = """
int repeat(char **p, long batch, const long *by) {
    char *scratch = malloc(SCRATCH), *q[COUNT];
    if (!scratch) return 1;
    for (long b = 0; b < batch; b++) {
        for (int i = 0; i < COUNT; i++) q[i] = p[i] + b * by[i];
        for (once(q, scratch); *(unsigned char *) q[GOES_ON]; once(q, scratch)) go_on(q);
    }
    free(scratch);
    return 0;
}"""


@final
class Repeated:
    """Code that does a function again and again to each problem of a batch, until it says that nothing is left.

    Args:
        function: of tensors of one problem: a state and what else it reads, to the next state and one truth value,
            whether that is to be gone on from; else the state is left as it is.
        given: some of the right shapes, the state first.
        moving: how many tensors are the state.
        recorder: what the function tells of more than operations.

    Attributes:
        constants: what the function closes over.
        moving: how many tensors are the state.
        written: which of them are written into.

    Raises:
        UnknownError: an operation that has no loop, or a state whose parts change places.
        ValueAskedError: a function that asks for values.
        InputError: no C compiler, or one that fails.
    """

    def __init__(
        self, function: Callable[..., list[Tensor]], given: list[Tensor], moving: int, recorder: Recorder
    ) -> None:
        recording = recorder.record(function, given)
        self.constants = recording.constants
        writer = Writer(recording)
        if any(place >= 0 and place != own for own, (place, _, _) in enumerate(writer.outputs[: moving + 1])):
            raise UnknownError("a state whose parts change places")
        self._held = writer.held
        self._made = list(dict.fromkeys(output for output in writer.outputs if output[0] < 0))
        self.moving = moving
        self.written = [place < 0 for place, _, _ in writer.outputs[:moving]]
        count = len(given) + len(self._made) + len(self._held)
        moves = [
            f"memcpy(q[{own}], q[{len(given) - place - 1}], {_bytes(shape, dtype)});"
            for own, (place, shape, dtype) in enumerate(writer.outputs[:moving])
            if place < 0
        ]
        last = f"#define COUNT {count}\n#define GOES_ON {len(given) - writer.outputs[moving][0] - 1}"
        ends = ["static void go_on(char **q) {", *moves, "}", last, _REPEAT]
        lines = [*writer.source(), RUN, *ends]
        self._code = loaded("\n".join(lines), real_of(recording), "-O2")
        self._outputs = writer.outputs
        self._pointers, self._steps = ctypes.c_void_p * count, ctypes.c_long * count

    def once(self, leaves: list[Tensor]) -> list[Tensor]:
        """The function, of contiguous tensors of one problem."""
        made = {place: torch.empty(shape, dtype=dtype) for place, shape, dtype in self._made}
        pointers = self._pointers(*[part.data_ptr() for part in (*leaves, *made.values(), *self._held)])
        if self._code.run(pointers):
            raise MemoryError("no memory for compiled code")
        return [made[place] if place < 0 else leaves[place] for place, _, _ in self._outputs]

    def __call__(self, leaves: list[Tensor], own: list[bool]) -> None:
        """Move the states of a batch, given contiguous tensors; `own` says of which of them each problem has a part."""
        made = [torch.empty(shape, dtype=dtype) for _, shape, dtype in self._made]
        pointers = self._pointers(*[part.data_ptr() for part in (*leaves, *made, *self._held)])
        batch = len(leaves[0])
        parts = zip(leaves, own, strict=True)
        steps = [leaf.numel() // batch * leaf.element_size() if each else 0 for leaf, each in parts]
        rest = [0] * (len(made) + len(self._held))
        if self._code.repeat(pointers, ctypes.c_long(batch), self._steps(*steps, *rest)):
            raise MemoryError("no memory for compiled code")


def _bytes(shape: Shape, dtype: torch.dtype) -> int:
    return prod(shape) * torch.empty((), dtype=dtype).element_size()

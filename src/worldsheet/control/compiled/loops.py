"""A function of whole arrays as loops in C: shapes are numbers in it, and what only moves entries costs nothing."""

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.control.compiled.calls import Argument, Callee
from worldsheet.control.compiled.entries import Apply, Number, Read, Shape, Tree, Value, contiguous, inside, nested
from worldsheet.control.compiled.native import loaded
from worldsheet.control.compiled.recording import Branch, Call, Recorder, Recording, Ref, UnknownError, flat

aten = torch.ops.aten

_TYPES = {torch.float64: "REAL", torch.float32: "REAL", torch.bool: "unsigned char", torch.int64: "long long"}
_LARGEST = 24  # operations within one expression
_MOST_PLACES = 64  # entries of a list of places, each of which is a loop

_ALIASES = {aten.detach, aten.alias}
_VIEWS = {
    aten.view, aten._unsafe_view, aten.expand, aten.permute, aten.transpose, aten.t, aten.select, aten.slice,
    aten.unsqueeze, aten.squeeze, aten.unbind, aten.split, aten.diagonal,
}  # fmt: skip
_FORMS = {
    aten.mul: "({0} * {1})", aten.neg: "(-{0})", aten.reciprocal: "(1 / {0})", aten.abs: "fabs({0})",
    aten.maximum: "r_max({0}, {1})", aten.minimum: "r_min({0}, {1})", aten.relu: "r_max({0}, 0)",
    aten.sign: "(({0} > 0) - ({0} < 0))", aten.sigmoid: "(1 / (1 + exp(-{0})))", aten.rsqrt: "(1 / sqrt({0}))",
    aten.lt: "({0} < {1})", aten.le: "({0} <= {1})", aten.gt: "({0} > {1})", aten.ge: "({0} >= {1})",
    aten.eq: "({0} == {1})", aten.ne: "({0} != {1})", aten.where: "({0} ? {1} : {2})",
    aten.bitwise_and: "({0} & {1})", aten.bitwise_or: "({0} | {1})", aten.bitwise_xor: "({0} ^ {1})",
    aten.logical_and: "({0} && {1})", aten.logical_or: "({0} || {1})", aten.logical_not: "(!{0})",
    aten.atan2: "atan2({0}, {1})", aten.isnan: "({0} != {0})", aten.isinf: "(fabs({0}) == INFINITY)",
    **{getattr(aten, name): f"{name}({{0}})" for name in (
        "sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "sinh", "cosh", "atan", "asin", "acos", "log1p", "expm1",
        "erf", "floor", "ceil",
    )},
}  # fmt: skip
_REAL_ONLY = {aten.neg, aten.abs, aten.maximum, aten.minimum, aten.relu, aten.sign}
_POWERS = {0: "1", 1: "{0}", 2: "r_square({0})", 3: "r_cube({0})", 4: "r_square(r_square({0}))", 0.5: "sqrt({0})",
           -1: "(1 / {0})", -2: "(1 / r_square({0}))"}  # fmt: skip
_IN_PLACE: dict[Any, Any] = {aten.copy_: None, aten.add_: aten.add, aten.sub_: aten.sub, aten.mul_: aten.mul}
_TOTALS = {  # what a reduction begins with, and how it goes on
    aten.sum: ("0", "s + {0}"), aten.mean: ("0", "s + {0}"), aten.amax: ("-INFINITY", "r_max(s, {0})"),
    aten.amin: ("INFINITY", "r_min(s, {0})"), aten.all: ("1", "s && {0}"), aten.any: ("0", "s || {0}"),
}  # fmt: skip
_SOURCE = Path(__file__).with_name("loops.c")


@final
@dataclass
class _Buffer:
    """A piece of memory: from outside where `pointer` says at which place, else scratch."""

    ctype: str
    size: int
    pointer: int | None = None
    first: int = -1
    last: int = -1
    offset: int = 0


@final
class Loops:
    """Code for a function of tensors of these shapes.

    What the function returns as it got it is returned as it is given, as torch does.

    Args:
        function: of tensors.
        given: some of the right shapes.
        recorder: what the function tells of more than operations.

    Attributes:
        constants: what the function closes over.

    Raises:
        UnknownError: an operation that has no loop.
        ValueAskedError: a function that asks for values.
        InputError: no C compiler, or one that fails.
    """

    def __init__(
        self, function: Callable[..., list[Tensor]], given: list[Tensor], recorder: Recorder | None = None
    ) -> None:
        recording = (Recorder(BASIC) if recorder is None else recorder).record(function, given)
        self.constants = recording.constants
        writer = Writer(recording)
        self._held, self._outputs = writer.held, writer.outputs
        self._code = loaded("\n".join([*writer.source(), RUN]), real_of(recording), "-O2")
        self._pointers = ctypes.c_void_p * (
            len(given) + len(self._held) + len({n for n, _, _ in self._outputs if n < 0})
        )

    def __call__(self, leaves: list[Tensor]) -> list[Tensor]:
        """The function, of contiguous tensors."""
        made: dict[int, Tensor] = {}
        found = []
        for place, shape, dtype in self._outputs:
            if place < 0 and place not in made:
                made[place] = torch.empty(shape, dtype=dtype)
            found.append(made[place] if place < 0 else leaves[place])
        pointers = self._pointers(*[part.data_ptr() for part in (*leaves, *made.values(), *self._held)])
        if self._code.run(pointers):
            raise MemoryError("no memory for compiled code")
        return found


RUN = """
int run(char **p) {
    char *scratch = malloc(SCRATCH);
    if (!scratch) return 1;
    once(p, scratch);
    free(scratch);
    return 0;
}"""


def real_of(recording: Recording) -> torch.dtype:
    """What REAL is.

    Raises:
        UnknownError: several kinds.
    """
    reals = {like.dtype for like in recording.likes if like.is_floating_point()}
    if len(reals) > 1:
        raise UnknownError(f"numbers of several kinds: {sorted(map(str, reals))}")
    return next(iter(reals), torch.float64)


@final
class Writer:
    """Goes through a recording and writes loops."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._values: dict[int, Value] = {}
        self._buffers: list[_Buffer] = []
        self._lines: list[str] = []
        self._wide = torch.empty(2**50, dtype=torch.uint8, device="meta")
        self._written = {_memory(recording.likes[call.args[0].number]) for call in recording.calls if call.in_place}
        self._left = Counter(recording.outputs)
        for call in recording.calls:
            self._left.update(
                part.number for part in flat((call.args, tuple(call.kwargs.values()))) if isinstance(part, Ref)
            )
        self.held: list[Tensor] = []
        self.outputs: list[tuple[int, Shape, torch.dtype]] = []
        self._open: list[tuple[dict[int, Value], list[Read]]] = []
        for place, number in enumerate(recording.inputs):
            like = recording.likes[number]
            self._values[number] = self._whole(self._buffer(like, place), like)
        for call in recording.calls:
            self._call(call)
        self._finish(len(recording.inputs))

    def source(self) -> list[str]:
        """The function `once`, and how much memory it needs besides."""
        lines = [
            _SOURCE.read_text(),
            f"#define SCRATCH {max(1, self._arranged())}",
            "static void once(char **p, char *scratch) {",
        ]
        for number, buffer in enumerate(self._buffers):
            at = f"p[{buffer.pointer}]" if buffer.pointer is not None else f"(scratch + {buffer.offset})"
            if buffer.pointer is not None or buffer.last >= 0:
                lines.append(f"{buffer.ctype} *const a{number} = ({buffer.ctype} *){at};")
        return [*lines, *self._lines, "}"]

    # --- memory ---

    def _buffer(self, like: Tensor, pointer: int | None = None) -> int:
        if like.dtype not in _TYPES:
            raise UnknownError(f"numbers of {like.dtype}")
        self._buffers.append(_Buffer(_TYPES[like.dtype], like.numel(), pointer))
        return len(self._buffers) - 1

    def _whole(self, buffer: int, like: Tensor) -> Value:
        return Value(Read(buffer, contiguous(like.shape), 0), tuple(like.shape))

    def _arranged(self) -> int:
        """Places for scratch, each taken again by what comes later; the size of all."""
        free: list[tuple[int, int]] = []
        end, open_ = 0, list[tuple[int, int, int]]()
        scratch = [each for each in self._buffers if each.pointer is None and each.last >= 0]
        for buffer in sorted(scratch, key=lambda each: each.first):
            free += [(offset, size) for last, offset, size in open_ if last < buffer.first]
            open_ = [piece for piece in open_ if piece[0] >= buffer.first]
            size = -(-buffer.size * 8 // 64) * 64 or 64
            fitting = min((piece for piece in free if piece[1] >= size), key=lambda piece: piece[1], default=None)
            if fitting is None:
                buffer.offset, end = end, end + size
            else:
                free.remove(fitting)
                buffer.offset = fitting[0]
                if fitting[1] > size:
                    free.append((fitting[0] + size, fitting[1] - size))
            open_.append((buffer.last, buffer.offset, size))
        return end

    def _write(self, text: str, *buffers: int) -> None:
        for number in buffers:
            buffer = self._buffers[number]
            buffer.first = len(self._lines) if buffer.first < 0 else buffer.first
            buffer.last = len(self._lines)
        self._lines.append(text)

    # --- values ---

    def _of(self, part: Any, like: Tensor) -> Value:
        """A tensor or a number, as a value."""
        if not isinstance(part, Ref):
            return Value(Number.like(part, like), ())
        if part.number not in self._values:
            self._values[part.number] = self._constant(self._recording.values[part.number])
        return self._values[part.number]

    def _constant(self, value: Tensor) -> Value:
        first = value.reshape(-1)[:1]
        same = bool((value == first).all()) if value.numel() else True
        if same and value.numel():
            return Value(Number.like(first.item(), value), tuple(value.shape))
        self.held.append(value.contiguous())
        return self._whole(self._buffer(value, -len(self.held)), value)

    def _like(self, number: int) -> Tensor:
        return self._recording.likes[number]

    def _set(self, number: int, value: Value) -> None:
        """Remember a value; entries that are wanted more than once, or are long to write, are computed now."""
        if isinstance(value.tree, Apply) and (self._left[number] > 1 or value.tree.length > _LARGEST):
            value = self._stored(value, self._like(number))
        self._values[number] = value

    def _stored(self, value: Value, like: Tensor) -> Value:
        """With its entries in a buffer of its own."""
        made = Value(Read(self._buffer(like), contiguous(value.shape), 0), value.shape)
        self._assign(made.tree, value.tree, value.shape)
        return made

    def _read(self, part: Ref) -> tuple[Read, Shape]:
        """A value in a buffer."""
        value = self._of(part, self._like(part.number))
        if not isinstance(value.tree, Read):
            value = self._values[part.number] = self._stored(value, self._like(part.number))
        assert isinstance(value.tree, Read)
        return value.tree, value.shape

    def _spread(self, part: Any, shape: Shape, like: Tensor) -> Tree:
        """A value as it is broadcast."""
        value = self._of(part, like)
        if isinstance(value.tree, Apply) and prod(value.shape) < prod(shape):
            self._read(part)
            value = self._values[part.number]
        return value.spread(shape)

    # --- statements ---

    def _assign(self, target: Tree, tree: Tree, shape: Shape) -> None:
        assert isinstance(target, Read)
        reads = list(dict.fromkeys(tree.reads()))
        loops, places = nested(shape, [target, *reads])
        if loops is None:
            return
        texts = dict(zip(reads, places[1:], strict=True))
        self._write(f"{loops}{places[0]} = {tree.text(texts)};", target.buffer, *(read.buffer for read in reads))

    def _fill(self, buffer: int, like: Tensor, number: Number) -> None:
        self._assign(Read(buffer, contiguous(like.shape), 0), number, tuple(like.shape))

    def _finish(self, pointers: int) -> None:
        """What is returned has memory of its own, unless it came in as it is."""
        inputs = {self._values[number].tree: place for place, number in enumerate(self._recording.inputs)}
        places: dict[int, int] = {}
        for number in self._recording.outputs:
            like = self._like(number)
            value = self._of(Ref(number), like)
            shape = tuple(like.shape)
            if value.tree in inputs and shape == tuple(self._like(self._recording.inputs[inputs[value.tree]]).shape):
                self.outputs.append((inputs[value.tree], shape, like.dtype))
                continue
            if number not in places:
                self._return(value, like, pointers)
                places[number] = -len(places) - 1
                pointers += 1
            self.outputs.append((places[number], shape, like.dtype))
        for buffer in self._buffers:
            if buffer.pointer is not None and buffer.pointer < 0:
                buffer.pointer = pointers - 1 - buffer.pointer

    def _return(self, value: Value, like: Tensor, pointer: int) -> None:
        tree = value.tree
        if isinstance(tree, Read) and tree == Read(tree.buffer, contiguous(value.shape), 0):
            buffer = self._buffers[tree.buffer]
            if buffer.pointer is None and buffer.size == like.numel():
                buffer.pointer = pointer
                return
        self._assign(Read(self._buffer(like, pointer), contiguous(value.shape), 0), tree, value.shape)

    # --- operations ---

    def _call(self, call: Call) -> None:
        packet, args, kwargs, made = call.packet, call.args, call.kwargs, call.made
        if isinstance(packet, Callee):
            self._called(packet, args, made)
        elif isinstance(packet, Branch):
            self._branched(call)
        elif packet in _VIEWS:
            self._viewed(call)
        elif packet in _ALIASES:
            self._set(made[0], self._of(args[0], self._like(made[0])))
        elif packet in _IN_PLACE:
            self._overwritten(packet, args, kwargs)
        elif packet in _TOTALS:
            self._reduced(packet, args, kwargs, made[0])
        elif packet in _FORMS and not kwargs:
            if packet in _REAL_ONLY and not self._like(made[0]).is_floating_point():
                raise UnknownError(f"{packet} of {self._like(made[0]).dtype}")
            self._entrywise(_FORMS[packet], args, made[0])
        elif packet in _RULES:
            _RULES[packet](self, *args, made=made, **kwargs)
        else:
            raise UnknownError(str(packet))

    def _called(self, code: Callee, args: tuple[Ref, ...], made: tuple[int, ...]) -> None:
        """Code that there is already."""
        reads, arguments = list[Read](), list[Argument]()
        for part in args:
            read, shape = self._read(part)
            if not code.reads(shape, read.strides):
                read = self._stored(Value(read, shape), self._like(part.number)).tree  # type: ignore[assignment]
            reads.append(read)
            arguments.append(Argument(f"a{read.buffer} + {read.offset}", shape, read.strides))
        self.held.append(torch.tensor([code.address]))
        at = self._buffer(self.held[-1], -len(self.held))
        buffers = [self._buffer(self._like(number)) for number in made]
        text = code.text(f"a{at}[0]", arguments, [f"a{buffer}" for buffer in buffers])
        self._write(text, at, *(read.buffer for read in reads), *buffers)
        for number, buffer in zip(made, buffers, strict=True):
            self._values[number] = self._whole(buffer, self._like(number))

    def _branched(self, call: Call) -> None:
        """A result that is there anyway is written over within; what is computed within is not known behind."""
        if call.target is Branch.BEGIN:
            needed, *others = call.args
            flag, _ = self._read(needed)
            results = []
            for other in others:
                stored = self._stored(self._of(other, self._like(other.number)), self._like(other.number))
                assert isinstance(stored.tree, Read)
                results.append(stored.tree)
            self._open.append((dict(self._values), results))
            self._write(f"if (a{flag.buffer}[{flag.offset}]) {{", flag.buffer)
            return
        before, results = self._open.pop()
        for part, target in zip(call.args, results, strict=True):
            value = self._of(part, self._like(part.number))
            self._assign(target, value.tree, value.shape)
        self._write("}")
        self._values = before
        for number, target in zip(call.made, results, strict=True):
            self._values[number] = Value(target, tuple(self._like(number).shape))

    def _entrywise(self, form: str, args: tuple[Any, ...], made: int) -> None:
        like = self._like(made)
        shape = tuple(like.shape)
        others = next((self._like(part.number) for part in args if isinstance(part, Ref)), like)
        wide = like if like.is_floating_point() else others
        self._set(made, Value(Apply(form, tuple(self._spread(part, shape, wide) for part in args)), shape))

    def _viewed(self, call: Call) -> None:
        """The same entries at other places; an expression that would be computed more than once is computed before."""
        part, shapes = call.args[0], [tuple(self._like(number).shape) for number in call.made]
        value = self._of(part, self._like(part.number))
        grows = any(prod(shape) > prod(value.shape) for shape in shapes)
        if isinstance(value.tree, Apply) and (grows or len(shapes) > 1):
            self._read(part)
            value = self._values[part.number]
        try:
            trees = self._moved(call, value)
        except RuntimeError:  # these entries have no such view, but in order they have
            if _memory(self._like(part.number)) in self._written:
                raise UnknownError("writing into what is out of order") from None
            trees = self._moved(call, self._stored(value, self._like(part.number)))
        for number, tree, shape in zip(call.made, trees, shapes, strict=True):
            self._set(number, Value(tree, shape))

    def _moved(self, call: Call, value: Value) -> list[Tree]:
        """What torch's own view makes of strides."""

        def moved(read: Read) -> list[Read]:
            wide = torch.as_strided(self._wide, value.shape, read.strides, read.offset)
            found = flat(call.target(wide, *call.args[1:], **call.kwargs))
            return [Read(read.buffer, tuple(each.stride()), int(each.storage_offset())) for each in found]

        places = {read: moved(read) for read in value.tree.reads()}
        return [value.tree.mapped(lambda read, i=i: places[read][i]) for i in range(len(call.made))]  # type: ignore[misc]

    def _overwritten(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What has been read of the buffer before is computed before."""
        number = args[0].number
        if any(number in before for before, _ in self._open):
            raise UnknownError("writing into what comes from outside of a branch")
        target, shape = self._read(args[0])
        if self._buffers[target.buffer].pointer is not None:
            raise UnknownError("writing into what comes from outside")
        like = self._like(number)
        if kwargs.get("alpha", 1) != 1:
            raise UnknownError("a factor in place")
        source = self._spread(args[1], shape, like)
        if packet is not aten.copy_:
            form = _FORMS.get(_IN_PLACE[packet]) or _SUMS[_IN_PLACE[packet]]
            source = Apply(form, (target, source))
        for other, value in self._values.items():
            if isinstance(value.tree, Apply) and any(read.buffer == target.buffer for read in value.tree.reads()):
                self._values[other] = self._stored(value, self._like(other))
        if any(read.buffer == target.buffer and read != target for read in source.reads()):
            source = self._stored(Value(source, shape), like).tree
        self._assign(target, source, shape)

    def _reduced(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: int) -> None:
        like, whole = self._like(made), self._of(args[0], self._like(args[0].number))
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        if not all(name in {"dim", "keepdim"} or value is None for name, value in kwargs.items()) or len(args) > 3:
            raise UnknownError(str(packet))
        rank = len(whole.shape)
        over = {dim % rank for dim in flat(dims)} if dims is not None and flat(dims) else set(range(rank))
        begin, step = _TOTALS[packet]
        if packet in {aten.amax, aten.amin} and not like.is_floating_point():
            raise UnknownError(f"{packet} of {like.dtype}")
        count = prod(whole.shape[dim] for dim in over)
        if packet is aten.mean and not count:
            begin = "NAN"
        self._total(whole, over, (begin, step, f"/ {count}" if packet is aten.mean and count else ""), made)

    def _total(self, whole: Value, over: set[int], rule: tuple[str, str, str], made: int) -> None:
        """Loops over what is kept, and inside over the others."""
        like, (begin, step, after) = self._like(made), rule
        rank = len(whole.shape)
        kept = [dim for dim in range(rank) if dim not in over]
        inner = sorted(over)
        shape = tuple(whole.shape[dim] for dim in kept)
        target = Read(self._buffer(like), contiguous(shape), 0)
        reads = list(dict.fromkeys(whole.tree.reads()))
        outer = [target, *(Read(read.buffer, tuple(read.strides[dim] for dim in kept), 0) for read in reads)]
        within = [Read(read.buffer, tuple(read.strides[dim] for dim in inner), read.offset) for read in reads]
        loops, places = nested(shape, outer)
        self._values[made] = Value(Read(target.buffer, contiguous(like.shape), 0), tuple(like.shape))
        if loops is None:
            return
        below, at = nested(tuple(whole.shape[dim] for dim in inner), within, "j")
        ctype, body = self._buffers[target.buffer].ctype, ""
        if below is not None:
            both = zip(reads, places[1:], at, strict=True)
            texts = {read: f"a{read.buffer}[{inside(one)} + {inside(two)}]" for read, one, two in both}
            body = f"{below}s = {step.format(whole.tree.text(texts))};"
        text = f"{loops}{{ {ctype} s = {begin}; {body} {places[0]} = s{after}; }}"
        self._write(text, target.buffer, *(read.buffer for read in reads))

    def _add(self, a: Any, b: Any, alpha: int | float = 1, *, made: tuple[int, ...]) -> None:
        self._sum_of("({0} + {1})", a, b, alpha, made[0])

    def _sub(self, a: Any, b: Any, alpha: int | float = 1, *, made: tuple[int, ...]) -> None:
        self._sum_of("({0} - {1})", a, b, alpha, made[0])

    def _rsub(self, a: Any, b: Any, alpha: int | float = 1, *, made: tuple[int, ...]) -> None:
        if alpha != 1:
            raise UnknownError("a factor in a difference")
        self._sum_of("({0} - {1})", b, a, 1, made[0])

    def _sum_of(self, form: str, a: Any, b: Any, alpha: int | float, made: int) -> None:
        like = self._like(made)
        if like.dtype is torch.bool:
            raise UnknownError("a sum of truth values")
        factor = "" if alpha == 1 else f"{Number.like(alpha, like).written} * "
        self._entrywise(form.replace("{1}", factor + "{1}"), (a, b), made)

    def _div(self, a: Any, b: Any, *, made: tuple[int, ...]) -> None:
        self._entrywise("((REAL){0} / (REAL){1})", (a, b), made[0])

    def _pow(self, a: Any, power: Any, *, made: tuple[int, ...]) -> None:
        if not self._like(made[0]).is_floating_point():
            raise UnknownError("a power of integers")
        if isinstance(power, (int, float)) and power in _POWERS and isinstance(a, Ref):
            self._entrywise(_POWERS[power], (a,), made[0])
        else:
            self._entrywise("pow({0}, {1})", (a, power), made[0])

    def _clamp(
        self, a: Any, least: Any = None, most: Any = None, *, made: tuple[int, ...], min: Any = None, max: Any = None
    ) -> None:
        if not self._like(made[0]).is_floating_point():
            raise UnknownError("limits of integers")
        form, args = "{0}", [a]
        for name, limit in (("max", least if min is None else min), ("min", most if max is None else max)):
            if limit is not None:
                form = f"r_{name}({form}, {{{len(args)}}})"
                args.append(limit)
        self._entrywise(form, tuple(args), made[0])

    def _clamp_min(self, a: Any, least: Any, *, made: tuple[int, ...]) -> None:
        self._clamp(a, least, made=made)

    def _clamp_max(self, a: Any, most: Any, *, made: tuple[int, ...]) -> None:
        self._clamp(a, None, most, made=made)

    def _nan_to_num(
        self, a: Any, nan: Any = None, posinf: Any = None, neginf: Any = None, *, made: tuple[int, ...]
    ) -> None:
        finite = torch.finfo(self._like(made[0]).dtype)
        limits = (
            0.0 if nan is None else nan,
            finite.max if posinf is None else posinf,
            finite.min if neginf is None else neginf,
        )
        self._entrywise("r_tame({0}, {1}, {2}, {3})", (a, *limits), made[0])

    def _bitwise_not(self, a: Any, *, made: tuple[int, ...]) -> None:
        self._entrywise("(!{0})" if self._like(made[0]).dtype is torch.bool else "(~{0})", (a,), made[0])

    def _to_copy(self, a: Any, *, made: tuple[int, ...], **_: Any) -> None:
        dtype = self._like(made[0]).dtype
        form = "({0} != 0)" if dtype is torch.bool else f"(({_TYPES.get(dtype, 'REAL')}){{0}})"
        self._entrywise(form, (a,), made[0])
        if _memory(self._like(made[0])) in self._written:
            self._read(Ref(made[0]))

    def _clone(self, a: Any, *, made: tuple[int, ...], memory_format: Any = None) -> None:
        value, like = self._of(a, self._like(made[0])), self._like(made[0])
        kept = self._written & {_memory(like), _memory(self._like(a.number))}
        self._set(made[0], self._stored(value, like) if kept else value)

    def _cat(self, parts: list[Any], dim: int = 0, *, made: tuple[int, ...]) -> None:
        like = self._like(made[0])
        parts = [part for part in parts if self._like(part.number).dim() == like.dim()]  # torch leaves out shape (0,)
        dim %= like.dim()
        buffer, strides, first = self._buffer(like), contiguous(like.shape), 0
        for part in parts:
            value = self._of(part, like)
            self._assign(Read(buffer, strides, first * strides[dim]), value.tree, value.shape)
            first += value.shape[dim]
        self._values[made[0]] = self._whole(buffer, like)

    def _stack(self, parts: list[Any], dim: int = 0, *, made: tuple[int, ...]) -> None:
        like = self._like(made[0])
        dim %= like.dim()
        buffer, strides = self._buffer(like), contiguous(like.shape)
        for place, part in enumerate(parts):
            value = self._of(part, like)
            self._assign(
                Read(buffer, strides[:dim] + strides[dim + 1 :], place * strides[dim]), value.tree, value.shape
            )
        self._values[made[0]] = self._whole(buffer, like)

    def _placed(
        self, part: Any, like: Tensor, target: Callable[[Shape], tuple[Shape, int]], made: int, filling: Any = 0
    ) -> None:
        """Entries in an array of something else."""
        buffer, value = self._buffer(like), self._of(part, like)
        self._fill(buffer, like, Number.like(filling, like))
        strides, offset = target(contiguous(like.shape))
        self._assign(Read(buffer, strides, offset), value.tree, value.shape)
        self._values[made] = self._whole(buffer, like)

    def _constant_pad_nd(self, a: Any, pad: list[int], value: Any = 0, *, made: tuple[int, ...]) -> None:
        like, rank = self._like(made[0]), self._like(made[0]).dim()
        if any(each < 0 for each in pad):
            raise UnknownError("a negative margin")
        before = [pad[2 * (rank - 1 - dim)] if 2 * (rank - 1 - dim) < len(pad) else 0 for dim in range(rank)]
        self._placed(a, like, lambda s: (s, sum(n * by for n, by in zip(before, s, strict=True))), made[0], value)

    def _select_backward(self, a: Any, sizes: list[int], dim: int, index: int, *, made: tuple[int, ...]) -> None:
        dim, like = dim % len(sizes), self._like(made[0])
        self._placed(a, like, lambda s: (s[:dim] + s[dim + 1 :], index % sizes[dim] * s[dim]), made[0])

    def _slice_backward(
        self, a: Any, sizes: list[int], dim: int, start: int, end: int, step: int, *, made: tuple[int, ...]
    ) -> None:
        dim, like = dim % len(sizes), self._like(made[0])
        first = slice(start, end, step).indices(sizes[dim])[0]
        self._placed(a, like, lambda s: ((*s[:dim], s[dim] * step, *s[dim + 1 :]), first * s[dim]), made[0])

    def _index(self, a: Any, places: list[Any], *, made: tuple[int, ...]) -> None:
        chosen = [(dim, place) for dim, place in enumerate(places) if place is not None]
        rows = self._recording.values.get(chosen[0][1].number) if len(chosen) == 1 else None
        if rows is None or rows.dim() != 1 or rows.dtype is not torch.int64 or len(rows) > _MOST_PLACES:
            raise UnknownError("places that depend on values, or several lists of them")
        (dim, _), like = chosen[0], self._like(made[0])
        source, shape = self._read(a)
        buffer, strides = self._buffer(like), contiguous(like.shape)
        rest = shape[:dim] + shape[dim + 1 :]
        for place, row in enumerate(rows.tolist()):
            read = Read(
                source.buffer,
                source.strides[:dim] + source.strides[dim + 1 :],
                source.offset + row % shape[dim] * source.strides[dim],
            )
            self._assign(Read(buffer, strides[:dim] + strides[dim + 1 :], place * strides[dim]), read, rest)
        self._values[made[0]] = self._whole(buffer, like)

    def _product(self, a: Any, b: Any, *, made: tuple[int, ...]) -> None:
        like = self._like(made[0])
        if not like.is_floating_point():
            raise UnknownError("a product of integers")
        (left, shape), (right, _) = self._read(a), self._read(b)
        *lead, rows, depth = shape
        columns, buffer = like.shape[-1], self._buffer(like)
        strides = contiguous(like.shape)
        outer = [Read(buffer, (*strides[:-2], strides[-2]), 0), Read(left.buffer, left.strides[:-1], left.offset)]
        outer.append(Read(right.buffer, (*right.strides[:-2], 0), right.offset))
        loops, (to, x, y) = nested((*lead, rows), outer)
        self._values[made[0]] = self._whole(buffer, like)
        if loops is None or not columns:
            return
        x, y = (
            f"a{left.buffer}[{inside(x)} + k * {left.strides[-1]}]",
            f"a{right.buffer}[{inside(y)} + k * {right.strides[-2]} + j * {right.strides[-1]}]",
        )
        to = f"a{buffer}[{inside(to)} + j]"
        text = (
            f"{loops}{{ REAL s[{columns}]; for (int j = 0; j < {columns}; j++) s[j] = 0; "
            f"for (int k = 0; k < {depth}; k++) "
            f"{{ const REAL x = {x}; for (int j = 0; j < {columns}; j++) s[j] += x * {y}; }} "
            f"for (int j = 0; j < {columns}; j++) {to} = s[j]; }}"
        )
        self._write(text, buffer, left.buffer, right.buffer)

    def _sort(self, a: Any, dim: int = -1, descending: bool = False, *, made: tuple[int, ...]) -> None:
        like = self._like(made[0])
        if descending or self._left[made[1]] or not like.is_floating_point():
            raise UnknownError("an order that is not that of numbers alone")
        source, shape = self._read(a)
        buffer, strides, dim = self._buffer(like), contiguous(like.shape), dim % len(shape)
        outer = [
            Read(each.buffer, each.strides[:dim] + each.strides[dim + 1 :], each.offset)
            for each in (source, Read(buffer, strides, 0))
        ]
        loops, (from_, to) = nested(shape[:dim] + shape[dim + 1 :], outer)
        self._values[made[0]] = self._whole(buffer, like)
        if loops is not None:
            text = f"{loops}r_sort(&{from_}, {source.strides[dim]}, &{to}, {strides[dim]}, {shape[dim]});"
            self._write(text, buffer, source.buffer)

    def _argmax(self, a: Any, dim: int | None = None, keepdim: bool = False, *, made: tuple[int, ...]) -> None:
        like, (source, shape) = self._like(made[0]), self._read(a)
        if dim is None:
            raise UnknownError("the place of the largest of all")
        dim %= len(shape)
        rest = shape[:dim] + shape[dim + 1 :]
        buffer = self._buffer(like)
        outer = [
            Read(source.buffer, source.strides[:dim] + source.strides[dim + 1 :], source.offset),
            Read(buffer, contiguous(rest), 0),
        ]
        loops, (from_, to) = nested(rest, outer)
        self._values[made[0]] = self._whole(buffer, like)
        if loops is not None:
            at = f"a{source.buffer}[{inside(from_)} + j * {source.strides[dim]}]"
            best = f"a{source.buffer}[{inside(from_)} + {to} * {source.strides[dim]}]"
            larger = f"{at} > {best} || ({at} != {at} && {best} == {best})"
            text = f"{loops}{{ {to} = 0; for (int j = 1; j < {shape[dim]}; j++) if ({larger}) {to} = j; }}"
            self._write(text, buffer, source.buffer)


_SUMS = {aten.add: "({0} + {1})", aten.sub: "({0} - {1})"}


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


_RULES: dict[Any, Callable[..., None]] = {
    aten.add: Writer._add, aten.sub: Writer._sub, aten.rsub: Writer._rsub, aten.div: Writer._div,
    aten.pow: Writer._pow, aten.clamp: Writer._clamp, aten.clamp_min: Writer._clamp_min,
    aten.clamp_max: Writer._clamp_max, aten.nan_to_num: Writer._nan_to_num, aten.bitwise_not: Writer._bitwise_not,
    aten._to_copy: Writer._to_copy, aten.clone: Writer._clone, aten.cat: Writer._cat, aten.stack: Writer._stack,
    aten.constant_pad_nd: Writer._constant_pad_nd, aten.select_backward: Writer._select_backward,
    aten.slice_backward: Writer._slice_backward, aten.index: Writer._index, aten.mm: Writer._product,
    aten.bmm: Writer._product, aten.sort: Writer._sort, aten.argmax: Writer._argmax,
}  # fmt: skip
BASIC = frozenset(_ALIASES | _VIEWS | set(_FORMS) | set(_IN_PLACE) | set(_TOTALS) | set(_RULES))

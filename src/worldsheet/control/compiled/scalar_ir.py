"""A function of one point as scalar operations: no zero is added, no one is multiplied, nothing made twice."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.control.compiled.constants import Constants
from worldsheet.control.compiled.recording import Call, Recording, Ref, UnknownError, flat, record

aten = torch.ops.aten

_MOVES = {
    aten.view, aten._unsafe_view, aten.expand, aten.permute, aten.transpose, aten.t, aten.select, aten.slice,
    aten.unsqueeze, aten.squeeze, aten.cat, aten.stack, aten.clone, aten.detach, aten.alias, aten.index,
    aten.index_select, aten.select_scatter, aten.slice_scatter, aten.unbind, aten.split, aten.flip, aten.diagonal,
    aten.select_backward, aten.slice_backward, aten._to_copy,
}  # fmt: skip  # operations that only move numbers: done on the names of the numbers
_CHOSEN = {aten.index, aten.index_select}  # those of them whose later arguments say what is moved
_IN_PLACE = {aten.copy_: None, aten.add_: aten.add, aten.sub_: aten.sub, aten.mul_: aten.mul, aten.div_: aten.div}
_UNARY = {
    aten.sin: "sin", aten.cos: "cos", aten.tan: "tan", aten.exp: "exp", aten.log: "log", aten.sqrt: "sqrt",
    aten.tanh: "tanh", aten.sinh: "sinh", aten.cosh: "cosh", aten.atan: "atan", aten.abs: "abs", aten.sign: "sign",
    aten.sigmoid: "sigmoid",
}  # fmt: skip
_BINARY = {
    aten.mul: "*", aten.div: "/", aten.maximum: "max", aten.minimum: "min", aten.atan2: "atan2", aten.lt: "lt",
    aten.le: "le", aten.gt: "gt", aten.ge: "ge", aten.eq: "eq", aten.ne: "ne",
}  # fmt: skip


@final
class Names:
    """A tensor whose entries are the numbers of scalar operations."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers


@final
class Scalars:
    """Scalar operations, each written once; number 0 is the constant zero.

    Attributes:
        table: (operation, its arguments' numbers), or ("constant", value), or ("given", field, entry).
    """

    def __init__(self) -> None:
        self.table: list[tuple[Any, ...]] = []
        self._found: dict[tuple[Any, ...], int] = {}
        self.constant(0.0)

    def constant(self, value: float) -> int:
        """The number of a constant."""
        return self._put(("constant", float(value)))

    def given(self, field: int, entry: int) -> int:
        """The number of an input."""
        return self._put(("given", field, entry))

    def value(self, number: int) -> float | None:
        """What it is if it is constant."""
        row = self.table[number]
        return row[1] if row[0] == "constant" else None

    def made(self, operation: str, *parts: int) -> int:
        """The number of operation(parts), with what constants make of it."""
        if operation in {"+", "-", "*", "/"}:
            a, b = parts
            short = self._shortened(operation, a, b)
            if short is not None:
                return short
            if operation in {"+", "*"} and a > b:
                parts = (b, a)
        return self._put((operation, *parts))

    def _shortened(self, operation: str, a: int, b: int) -> int | None:
        x, y = self.value(a), self.value(b)
        if x is not None and y is not None and (operation != "/" or y):
            return self.constant({"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else 0.0}[operation])
        if operation == "*" and (x == 0 or y == 0):
            return 0
        if (operation in {"+", "-"} and y == 0) or (operation in {"*", "/"} and y == 1):
            return a
        if (operation == "+" and x == 0) or (operation == "*" and x == 1):
            return b
        return 0 if operation == "/" and x == 0 else None

    def _put(self, row: tuple[Any, ...]) -> int:
        number = self._found.get(row)
        if number is None:
            number = self._found[row] = len(self.table)
            self.table.append(row)
        return number


def scalars(
    function: Callable[..., tuple[Tensor, ...]], fields: list[Tensor]
) -> tuple[Scalars, list[Tensor], Constants]:
    """The operations of a function at one point, the numbers of what it returns in their shapes, and its constants.

    Raises:
        UnknownError: an operation that is not known here.
        ValueAskedError: a function that asks for values.
    """
    recording = record(function, fields, BASIC)
    run = _Run(recording)
    return run.scalars, [run.of(number).numbers for number in recording.outputs], recording.constants


@final
class _Run:
    """Goes through a recording with names in the place of numbers."""

    def __init__(self, recording: Recording) -> None:
        self.scalars = Scalars()
        self._recording = recording
        self._names: dict[int, Names] = {}
        for field, number in enumerate(recording.inputs):
            self._names[number] = self.entered(field, recording.likes[number])
        for call in recording.calls:
            found = self._call(call)
            parts = found if isinstance(found, list) else [found]
            self._names.update(zip(call.made, parts, strict=True))

    def of(self, number: int) -> Names:
        """The names of a tensor."""
        if number not in self._names:
            self._names[number] = self.named(self._recording.values[number])
        return self._names[number]

    def entered(self, field: int, like: Tensor) -> Names:
        """The names of an input."""
        numbers = [self.scalars.given(field, entry) for entry in range(like.numel())]
        return Names(torch.tensor(numbers, dtype=torch.long).reshape(like.shape))

    def named(self, part: Any) -> Names:
        """Names for constants, too."""
        if isinstance(part, Names):
            return part
        values = part if isinstance(part, Tensor) else torch.tensor(part, dtype=torch.float64)
        numbers = [self.scalars.constant(float(value)) for value in values.flatten().tolist()]
        return Names(torch.tensor(numbers, dtype=torch.long).reshape(values.shape))

    def _call(self, call: Call) -> Any:
        """One operation; where a rule takes names, constants have them, too."""
        args, kwargs = tuple(self._filled(part) for part in call.args), self._filled(call.kwargs)
        if call.packet in _IN_PLACE:
            return self._written(_IN_PLACE[call.packet], args, kwargs)
        if call.packet in _MOVES:
            return self._moved(call, args, kwargs)
        return self._computed(call.packet, args, kwargs)

    def _computed(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if packet in _UNARY:
            return self._each(lambda x: self.scalars.made(_UNARY[packet], x), *args)
        if packet in _BINARY and not kwargs:
            return self._each(lambda x, y: self.scalars.made(_BINARY[packet], x, y), *args)
        if packet not in _RULES:
            raise UnknownError(str(packet))
        return _RULES[packet](self, *args, **kwargs)

    def _written(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Names:
        """The same names for all views of what is written into, as torch has it."""
        made = self.named(args[1]) if packet is None else self._computed(packet, args, kwargs)
        target: Names = args[0]
        target.numbers.copy_(made.numbers)
        return target

    def _filled(self, part: Any) -> Any:
        if isinstance(part, Ref):
            known = part.number in self._names
            value = None if known else self._recording.values[part.number]
            return self.of(part.number) if value is None or value.is_floating_point() else value
        if isinstance(part, (list, tuple)):
            return type(part)(self._filled(each) for each in part)
        return {name: self._filled(each) for name, each in part.items()} if isinstance(part, dict) else part

    def _moved(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def bare(part: Any) -> Any:
            if isinstance(part, (list, tuple)):
                return type(part)(bare(each) for each in part)
            return self.named(part).numbers if isinstance(part, (Names, Tensor)) else part

        if call.packet is aten._to_copy:
            if not self._recording.likes[call.made[0]].is_floating_point():
                raise UnknownError(str(call.target))
            return Names(args[0].numbers.clone())
        if call.packet in _CHOSEN:
            if any(isinstance(part, Names) for part in flat(args[1:])):
                raise UnknownError(f"{call.target} at places that depend on values")
            found = call.target(args[0].numbers, *args[1:], **kwargs)
        else:
            found = call.target(*bare(args), **kwargs)
        return Names(found) if isinstance(found, Tensor) else [Names(part) for part in found]

    def _each(self, make: Callable[..., int], *parts: Any) -> Names:
        numbers = torch.broadcast_tensors(*(self.named(part).numbers for part in parts))  # type: ignore[no-untyped-call]
        columns = (part.flatten().tolist() for part in numbers)
        made = [make(*row) for row in zip(*columns, strict=True)]
        return Names(torch.tensor(made, dtype=torch.long).reshape(numbers[0].shape))

    def _add(self, a: Any, b: Any, alpha: float = 1) -> Names:
        return self._each(lambda x, y: self.scalars.made("+", x, y), a, b if alpha == 1 else self._scaled(b, alpha))

    def _sub(self, a: Any, b: Any, alpha: float = 1) -> Names:
        return self._each(lambda x, y: self.scalars.made("-", x, y), a, b if alpha == 1 else self._scaled(b, alpha))

    def _scaled(self, a: Any, by: float) -> Names:
        return self._each(lambda x, y: self.scalars.made("*", x, y), a, by)

    def _neg(self, a: Any) -> Names:
        return self._scaled(a, -1.0)

    def _reciprocal(self, a: Any) -> Names:
        return self._each(lambda x, y: self.scalars.made("/", y, x), a, 1.0)

    def _rsqrt(self, a: Any) -> Names:
        return self._reciprocal(self._each(lambda x: self.scalars.made("sqrt", x), a))

    def _where(self, condition: Any, a: Any, b: Any) -> Names:
        return self._each(lambda *parts: self.scalars.made("where", *parts), condition, a, b)

    def _clamp(self, a: Any, low: Any = None, high: Any = None) -> Names:
        if low is not None:
            a = self._each(lambda x, y: self.scalars.made("max", x, y), a, low)
        return a if high is None else self._each(lambda x, y: self.scalars.made("min", x, y), a, high)

    def _pow(self, a: Any, power: Any) -> Names:
        if not isinstance(power, (int, float)) or not isinstance(a, Names) or power not in {0, 1, 2, 3, 4}:
            return self._each(lambda x, y: self.scalars.made("pow", x, y), a, power)
        made = self._each(lambda _: self.scalars.constant(1.0), a)
        for _ in range(int(power)):
            made = self._each(lambda x, y: self.scalars.made("*", x, y), made, a)
        return made

    def _sum(self, a: Names, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Names:
        numbers = a.numbers
        every = list(range(numbers.dim()))
        over = [dim % numbers.dim() for dim in dims] if dims else every
        kept = [dim for dim in every if dim not in over]
        rows = numbers.permute(*kept, *over).reshape(*(numbers.shape[dim] for dim in kept), -1)
        flat = rows.reshape(-1, rows.shape[-1]).tolist()
        made = torch.tensor([self._total(row) for row in flat], dtype=torch.long)
        shape = [1 if dim in over else numbers.shape[dim] for dim in every] if keepdim else rows.shape[:-1]
        return Names(made.reshape(shape))

    def _mean(self, a: Names, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Names:
        total = self._sum(a, dims, keepdim)
        return self._scaled(total, total.numbers.numel() / a.numbers.numel())

    def _total(self, row: list[int]) -> int:
        total = 0
        for number in row:
            total = self.scalars.made("+", total, number)
        return total

    def _mm(self, a: Any, b: Any) -> Names:
        left, right = self.named(a).numbers[..., None], self.named(b).numbers[..., None, :, :]
        return self._sum(self._each(lambda x, y: self.scalars.made("*", x, y), Names(left), Names(right)), [-2])

    def _addmm(self, bias: Any, a: Any, b: Any) -> Names:
        return self._add(bias, self._mm(a, b))

    def _constant_pad_nd(self, a: Names, pad: list[int], value: float = 0) -> Names:
        return Names(aten.constant_pad_nd(a.numbers, pad, self.scalars.constant(float(value))))


_RULES: dict[Any, Callable[..., Names]] = {
    aten.add: _Run._add, aten.sub: _Run._sub, aten.neg: _Run._neg, aten.reciprocal: _Run._reciprocal,
    aten.rsqrt: _Run._rsqrt, aten.where: _Run._where, aten.clamp: _Run._clamp, aten.pow: _Run._pow,
    aten.sum: _Run._sum, aten.mean: _Run._mean, aten.mm: _Run._mm, aten.bmm: _Run._mm, aten.addmm: _Run._addmm,
    aten.constant_pad_nd: _Run._constant_pad_nd,
}  # fmt: skip
BASIC = frozenset(_MOVES | set(_IN_PLACE) | set(_UNARY) | set(_BINARY) | set(_RULES))
"""The operations that have a rule here; others are taken to pieces first."""

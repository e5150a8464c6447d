"""What a function does to tensors, as a list of torch's operations on them: what machine code is made of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.control.compiled.calls import Callee
from worldsheet.control.compiled.constants import Constants
from worldsheet.core.private_torch import DispatchMode, core_decompositions

aten = torch.ops.aten

_SHAPES = {
    aten.full_like, aten.zeros_like, aten.ones_like, aten.new_zeros, aten.new_ones, aten.new_full,
}  # fmt: skip  # operations that ask a tensor for its shape and nothing else


class UnknownError(Exception):
    """An operation that has no form in the code that is to be made."""


class ValueAskedError(Exception):
    """A function that wants to know the value of a tensor, which code cannot tell it."""


@final
@dataclass(frozen=True)
class Ref:
    """A tensor in a recording, by its number."""

    number: int


class Branch(Enum):
    """What stands around operations that are only done where a truth value holds.

    `BEGIN` is called with that and what is the result if it does not hold, `END` with the result if it does.
    """

    BEGIN = 0
    END = 1


@final
@dataclass(frozen=True)
class Call:
    """One operation.

    Attributes:
        target: torch's, other machine code, or one side of a branch.
        args: with `Ref` in the place of tensors, at any depth of lists.
        kwargs: likewise.
        made: the numbers of the tensors that it returns, in their order.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: tuple[int, ...]

    @property
    def packet(self) -> Any:
        """The operation without its overload."""
        return getattr(self.target, "overloadpacket", self.target)

    @property
    def in_place(self) -> bool:
        """Whether it writes into its first argument."""
        schema = getattr(self.target, "_schema", None)
        return schema is not None and bool(schema.is_mutable)


@final
@dataclass(frozen=True)
class Recording:
    """A function of tensors as the operations that it does.

    Attributes:
        inputs: the numbers of its arguments.
        calls: what depends on them, in order.
        values: of what does not depend on them, by number.
        likes: a tensor of the right shape and dtype for each number.
        outputs: the numbers of what it returns.
        constants: what it closes over.
    """

    inputs: tuple[int, ...]
    calls: tuple[Call, ...]
    values: dict[int, Tensor]
    likes: tuple[Tensor, ...]
    outputs: tuple[int, ...]
    constants: Constants


def record(
    function: Callable[..., list[Tensor] | tuple[Tensor, ...]], given: list[Tensor], basic: frozenset[Any]
) -> Recording:
    """Run a function on tensors and write down what it does to them; operations that are not basic in pieces.

    Raises:
        ValueAskedError: a function that asks for the value of a tensor that depends on what it is given.
        UnknownError: a function that writes into what it is given.
    """
    return Recorder(basic).record(function, given)


@final
class Recorder(DispatchMode):  # type: ignore[no-untyped-call]  # as torch leaves it
    """Stands between a function and torch's operations.

    A tensor that depends on no argument is a constant with the value that it has when it is used; nothing is recorded
    of how it came about. What is more than an operation is told to it: code that there is already, and branches.

    Args:
        basic: operations that are not taken to pieces.
    """

    def __init__(self, basic: frozenset[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.values: dict[int, Tensor] = {}
        self.likes: list[Tensor] = []
        self.outside: list[Tensor] = []
        self._basic = basic
        self._numbers: dict[int, int] = {}  # of tensors that depend on arguments; all are kept, so that none is reused
        self._made: dict[int, Tensor] = {}  # constants that were made inside
        self._used: dict[tuple[int, int], int] = {}
        self._held: list[Tensor] = []
        self._given: set[int] = set()
        self._callees: list[Callee] = []

    def record(self, function: Callable[..., list[Tensor] | tuple[Tensor, ...]], given: Sequence[Tensor]) -> Recording:
        """Run a function on tensors and write down what it does to them, once.

        Raises:
            ValueAskedError: a function that asks for the value of a tensor that depends on what it is given.
            UnknownError: a function that writes into what it is given.
        """
        arguments = [tensor.detach() for tensor in given]  # another object than any that the function may close over
        inputs = tuple(self.enter(tensor) for tensor in arguments)
        with self:
            found = function(*arguments)
        outputs = tuple(self.reference(tensor).number for tensor in found)
        outside = Constants(self.outside, [code.constants for code in self._callees])
        return Recording(inputs, tuple(self.calls), self.values, tuple(self.likes), outputs, outside)

    def call(self, code: Callee, given: Sequence[Tensor]) -> list[Tensor]:
        """Call other code from within the function."""
        with self.aside():
            made = code(*(tensor.detach() for tensor in given))
            self._callees.append(code)
            self._put(code, given, made)
        return made

    def branch(
        self,
        needed: Tensor,
        function: Callable[..., tuple[Tensor, ...]],
        given: Sequence[Any],
        otherwise: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """function(*given) where a truth value of one entry holds, else something of the same shapes."""
        with self.aside():
            self._put(Branch.BEGIN, (needed, *otherwise), ())
        found = function(*given)
        with self.aside():
            made = tuple(torch.empty_like(tensor) for tensor in found)
            self._put(Branch.END, found, made)
        return made

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Nothing is written down."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as torch leaves it
        try:
            yield
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]

    def _put(self, target: Any, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        references = tuple(self.reference(tensor) for tensor in given)
        self.calls.append(Call(target, references, {}, tuple(self._number(tensor) for tensor in made)))

    def enter(self, tensor: Tensor) -> int:
        """Give an argument its number."""
        self._given.add(tensor.untyped_storage().data_ptr())
        return self._number(tensor)

    def reference(self, tensor: Tensor) -> Ref:
        """A tensor's number; a constant is given one for each value that it has had."""
        number = self._numbers.get(id(tensor))
        if number is not None:
            return Ref(number)
        key = (id(tensor), 0 if tensor.is_inference() else tensor._version)
        if key not in self._used:
            if id(tensor) not in self._made:
                self._close_over(tensor)
            self._used[key] = len(self.likes)
            self.values[len(self.likes)] = tensor.detach().clone()
            self.likes.append(tensor)
        return Ref(self._used[key])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        target, kwargs = func, kwargs or {}
        tensors = [part for part in flat((args, tuple(kwargs.values()))) if isinstance(part, Tensor)]
        if not any(id(tensor) in self._numbers for tensor in tensors):
            return self._constant(target, tensors, args, kwargs)
        packet = target.overloadpacket
        if packet in _SHAPES:
            return self._kept(target(*args, **kwargs))
        if packet not in self._basic and not target._schema.is_mutable:
            pieces = _table()
            if target in pieces:
                with self:
                    return pieces[target](*args, **kwargs)
        if target is aten._local_scalar_dense.default:
            raise ValueAskedError("a branch on the value of a tensor, or a number made of it")
        return self._moving(target, args, kwargs)

    def _moving(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target._schema.is_mutable:
            written = args[0]
            if id(written) not in self._numbers or written.untyped_storage().data_ptr() in self._given:
                raise UnknownError(f"{target} into a tensor from outside, or one that was constant")
        call_args, call_kwargs = self._referring(args), self._referring(kwargs)
        found = target(*args, **kwargs)
        parts = flat(found)
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueAskedError(f"{target}, which returns no tensor")
        numbers = tuple(self._number(part) for part in parts)
        self.calls.append(Call(target, call_args, call_kwargs, numbers))
        return found

    def _constant(self, target: Any, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        if target is not aten.lift_fresh.default:
            for tensor in tensors:
                if id(tensor) not in self._made:
                    self._close_over(tensor)
        return self._kept(target(*args, **kwargs))

    def _kept(self, found: Any) -> Any:
        for part in flat(found):
            if isinstance(part, Tensor):
                self._made[id(part)] = part
        return found

    def _close_over(self, tensor: Tensor) -> None:
        self._made[id(tensor)] = tensor
        self.outside.append(tensor)

    def _number(self, tensor: Tensor) -> int:
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self.likes)
            self._held.append(tensor)
            self.likes.append(tensor)
        return number

    def _referring(self, part: Any) -> Any:
        if isinstance(part, Tensor):
            return self.reference(part)
        if isinstance(part, (list, tuple)):
            return type(part)(self._referring(each) for each in part)
        return {name: self._referring(each) for name, each in part.items()} if isinstance(part, dict) else part


@cache
def _table() -> Any:
    """How operations are made of fewer; to ask for it takes torch seconds."""
    return core_decompositions()


def flat(parts: Any) -> list[Any]:
    """What nested lists and tuples hold."""
    if isinstance(parts, (list, tuple)):
        return [each for part in parts for each in flat(part)]
    return [parts]

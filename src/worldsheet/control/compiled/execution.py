"""How the functions of a tick are executed: as they are written, or as machine code."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar, final

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from worldsheet.control.compiled.codegen import Straight, straight
from worldsheet.control.compiled.constants import Constants
from worldsheet.control.compiled.loops import Loops
from worldsheet.control.compiled.native import Recursion
from worldsheet.control.compiled.recording import UnknownError
from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import compiled_graph

R = TypeVar("R")

_POINTS = 8192  # stages that move at once where code wants their number
_ROUNDINGS = 1e3  # of the largest number that is given, by which code may differ from its function
_AT_ONCE = 8  # problems for which that is run which only some need


def mapped(change: Callable[..., Tensor], first: R, *others: R) -> R:
    """A record whose fields are `change` of the same fields of the given records."""
    names = [field.name for field in fields(first)]  # type: ignore[arg-type]  # records are dataclasses
    made: Any = type(first)
    return made(*(change(*(getattr(record, name) for record in (first, *others))) for name in names))  # type: ignore[no-any-return]


class Static(ABC):
    """A part of a record that is not taken apart; two with the same signature can stand for each other."""

    @abstractmethod
    def signature(self) -> Hashable:
        """All that matters of it."""


@final
@dataclass(frozen=True)
class _Kept:
    """A part that is no tensor."""

    key: Hashable


Form: TypeAlias = _Kept | tuple[Any, ...] | None
"""What a record is without its tensors: None for a tensor, its type and forms for a record."""


@cache
def _parts(record: type) -> Callable[[Any], tuple[Any, ...]] | None:
    """What takes such a record apart; None for what is not taken apart."""
    if record is tuple:
        return iter  # a tuple is its own parts
    if not is_dataclass(record) or issubclass(record, Static):
        return None
    names = tuple(field.name for field in fields(record))
    return attrgetter(*names) if len(names) > 1 else lambda one: tuple(getattr(one, name) for name in names)


def taken_apart(record: Any, leaves: list[Tensor], kept: list[Any]) -> Form:
    """Append the tensors of nested records and tuples to `leaves`, what is none to `kept`, and return the form."""
    made: Any = type(record)
    parts = None if made is Tensor else _parts(made)
    if parts is None:
        if isinstance(record, Tensor):
            leaves.append(record)
            return None
        kept.append(record)
        return _Kept(record.signature() if isinstance(record, Static) else record)
    forms: list[Any] = [made]
    for part in parts(record):
        if type(part) is Tensor:  # as below; most parts are, and this is done at every call
            leaves.append(part)
            forms.append(None)
        else:
            forms.append(taken_apart(part, leaves, kept))
    return tuple(forms)


def put_together(form: Form, leaves: Iterator[Tensor], kept: Iterator[Any]) -> Any:
    """The record again, with other tensors."""
    if form is None:
        return next(leaves)
    if isinstance(form, _Kept):
        return next(kept)
    made, *forms = form
    parts = [next(leaves) if part is None else put_together(part, leaves, kept) for part in forms]
    return tuple(parts) if made is tuple else made(*parts)


class Execution(ABC):
    """Runs functions from records of tensors to records of tensors.

    Such a function reads nothing but its arguments, branches on no value of a tensor, and changes none.
    """

    @property
    @abstractmethod
    def makes_code(self) -> bool:
        """Whether there may be code for a function, which then wants equal shapes each time."""

    @abstractmethod
    def places(self, most: int, stages: int) -> int:
        """How many problems of so many stages move at once, at most `most`."""

    @abstractmethod
    def left(self, taken: Tensor) -> Tensor:
        """Which places are gone on with when not all are taken any more, of (W,) whether they are."""

    @abstractmethod
    def portions(self, some: Tensor, most: int) -> list[Tensor]:
        """Positions in a list of problems that are to be run one portion after the other, each of `most` at most.

        All are in order; behind them the last portion may name some again.
        """

    @abstractmethod
    def begin(self) -> None:
        """A solve begins: what functions close over may have changed since the last one."""

    @abstractmethod
    def run(self, function: Callable[..., R], *given: Any) -> R:
        """function(*given)."""

    @abstractmethod
    def recursion(self, like: Tensor, sizes: tuple[int, int]) -> Recursion | None:
        """Machine code for the Riccati recursion of (n, m) states and controls, where there is any."""

    @abstractmethod
    def straight(
        self,
        key: Hashable,
        function: Callable[..., tuple[Tensor, ...]],
        fields: list[Tensor],
        *,
        in_turn: bool = False,
    ) -> Straight | None:
        """Straight-line code for a function of one stage (1, 1, ·), the same for the same key, where there is any.

        Args:
            key: of the function.
            function: of tensors.
            fields: of the right dtype and sizes, for any number of stages (B, N, ·).
            in_turn: whether a stage begins with what the one before it has made.
        """


@final
class Eager(Execution):
    """One operation after the other, as torch does."""

    @property
    def makes_code(self) -> bool:
        """Any number of problems is as good as another."""
        return False

    def places(self, most: int, stages: int) -> int:
        """As many as there may be."""
        return most

    def left(self, taken: Tensor) -> Tensor:
        """Those that are taken."""
        return taken.nonzero().flatten()

    def portions(self, some: Tensor, most: int) -> list[Tensor]:
        """All at once."""
        return [torch.arange(len(some), device=some.device)]

    def begin(self) -> None:
        """Nothing is kept from one solve to the next."""

    def run(self, function: Callable[..., R], *given: Any) -> R:
        """Call it."""
        return function(*given)

    def recursion(self, like: Tensor, sizes: tuple[int, int]) -> None:
        """None: torch does it."""

    def straight(
        self,
        key: Hashable,
        function: Callable[..., tuple[Tensor, ...]],
        fields: list[Tensor],
        *,
        in_turn: bool = False,
    ) -> None:
        """None: torch does it."""


@final
class Compiled(Execution):
    """Machine code: on a processor all of it C, elsewhere by the generator behind `torch.compile`.

    Stages are straight-line code, what moves whole arrays is loops, and the Riccati recursion is made for its sizes. An
    operation that has no such form brings the generator in for its function. Making code takes some seconds, once for
    a number of problems and all that `Problem.at` and `MPC` make of them. It is kept in the user's cache folder, or
    where the environment variable `WORLDSHEET_CACHE` says (nowhere if that is empty): what was made before on this
    machine, by the same compiler of the same source, is there in a fraction of a second. Dynamics, costs and
    constraints are read at the first solve. A tensor that they close over is compared at every solve, which refuses one
    that has changed; numbers and all else that they read must not change. What differs from solve to solve belongs into
    `Problem.parameters`.

    Attributes:
        seconds: wall-clock time spent on making code so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._current: set[Constants] = set()
        self._made: dict[Any, tuple[Callable[[list[Tensor]], list[Tensor]], Form, Constants]] = {}
        self._recursions: dict[tuple[torch.dtype, tuple[int, int]], Recursion] = {}
        self._straight: dict[Hashable, Straight | None] = {}

    @property
    def makes_code(self) -> bool:
        """A new shape is new code."""
        return True

    def places(self, most: int, stages: int) -> int:
        """Not so many that places stay empty for long in the end."""
        return min(most, _POINTS // stages)

    def left(self, taken: Tensor) -> Tensor:
        """All: an empty place costs less than new code."""
        return torch.arange(len(taken), device=taken.device)

    def portions(self, some: Tensor, most: int) -> list[Tensor]:
        """Portions of equal size; the last is filled up with its first problem."""
        width, positions = min(_AT_ONCE, most), torch.arange(len(some), device=some.device)
        parts = [positions[first : first + width] for first in range(0, len(some), width)]
        parts[-1] = torch.cat((parts[-1], parts[-1][:1].expand(width - len(parts[-1]))))
        return parts

    def begin(self) -> None:
        """The constants of code are compared once more when it is next used."""
        self._current.clear()

    def run(self, function: Callable[..., R], *given: Any) -> R:
        """Look up the code for these shapes, or make it.

        Raises:
            InputError: a function that cannot be traced, tensors it closes over that have changed, or no working C++
                compiler.
        """
        leaves: list[Tensor] = []
        kept: list[Any] = []
        form = taken_apart(given, leaves, kept)
        leaves = [leaf.contiguous() for leaf in leaves]
        key = (function, form, leaves[0].dtype, leaves[0].device, *[leaf.shape for leaf in leaves])
        if key not in self._made:
            begun = time.perf_counter()
            self._made[key] = _code(function, form, leaves, kept)
            self.seconds += time.perf_counter() - begun
        code, out, constants = self._made[key]
        self._check(constants)
        found: R = put_together(out, iter(code(leaves)), iter(()))
        return found

    def recursion(self, like: Tensor, sizes: tuple[int, int]) -> Recursion | None:
        """C on a processor, None elsewhere.

        Raises:
            InputError: no C compiler, or a dtype that C has not.
        """
        if like.device.type != "cpu":
            return None
        key = (like.dtype, sizes)
        if key not in self._recursions:
            begun = time.perf_counter()
            self._recursions[key] = Recursion(like.dtype, sizes)
            self.seconds += time.perf_counter() - begun
        return self._recursions[key]

    def straight(
        self,
        key: Hashable,
        function: Callable[..., tuple[Tensor, ...]],
        fields: list[Tensor],
        *,
        in_turn: bool = False,
    ) -> Straight | None:
        """C on a processor; None elsewhere and for what has no scalar form or is too large.

        Raises:
            InputError: tensors that the function closes over and that have changed, no C compiler, or a dtype that C
                has not.
        """
        like = fields[0]
        if like.device.type != "cpu":
            return None
        key = (key, in_turn, like.dtype, *[field.shape[-1] for field in fields])
        if key not in self._straight:
            begun = time.perf_counter()
            one = [field[:1, :1] for field in fields]
            code = straight(function, one, in_turn=in_turn)
            self._straight[key] = code if code is not None and agrees(code(*one), function(*one), one) else None
            self.seconds += time.perf_counter() - begun
        code = self._straight[key]
        if code is not None:
            self._check(code.constants)
        return code

    def _check(self, constants: Constants) -> None:
        if constants not in self._current:
            constants.check()
            self._current.add(constants)


def _code(
    function: Callable[..., Any], form: Form, leaves: list[Tensor], kept: list[Any]
) -> tuple[Callable[[list[Tensor]], list[Tensor]], Form, Constants]:
    """The function on bare tensors, the form of what it returns, and what it closes over."""
    forms: list[Form] = []

    def bare(*tensors: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        forms.append(taken_apart(function(*put_together(form, iter(tensors), iter(kept))), found, []))
        return found

    try:
        code = _loops(bare, leaves) or _generated(bare, leaves)
    except Exception as error:
        raise InputError(
            f"the problem's functions cannot be compiled: {type(error).__name__}: {str(error).splitlines()[0]}",
            "functions of tensors without branches on their values, and a C++ compiler",
            "use torch.where instead of if, install g++, or leave Compiled() out",
        ) from error
    return code[0], forms[-1], code[1]


_Code: TypeAlias = tuple[Callable[[list[Tensor]], list[Tensor]], Constants]


def _loops(function: Callable[..., list[Tensor]], leaves: list[Tensor]) -> _Code | None:
    """Loops in C, on a processor and where all operations have them."""
    if leaves[0].device.type != "cpu":
        return None
    try:
        made = Loops(function, leaves)
    except UnknownError:
        return None
    return (made, made.constants) if agrees(made(leaves), function(*leaves), leaves) else None


def agrees(made: Sequence[Tensor], wanted: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """Whether code returns what the function itself does, to rounding: the safeguard of what is made of operations.

    Numbers may differ by the root of their precision times the largest, where the function returns a finite one, and by
    some roundings of the largest that is given, for what is small because large numbers cancel.
    """
    largest = max((_largest(field) for field in given if field.is_floating_point()), default=0.0)
    for mine, theirs in zip(made, wanted, strict=True):
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            return False
        if not theirs.is_floating_point():
            if not torch.equal(mine, theirs):
                return False
            continue
        precision, finite = torch.finfo(theirs.dtype).eps, theirs.isfinite()
        apart = (mine - theirs)[finite].abs()
        tolerance = precision**0.5 * _largest(theirs) + _ROUNDINGS * precision * largest
        if apart.numel() and not float(apart.max()) <= tolerance:
            return False
    return True


def _largest(field: Tensor) -> float:
    """The largest finite size of an entry."""
    sizes = field[field.isfinite()].abs()
    return float(sizes.max()) if sizes.numel() else 0.0


def _generated(function: Callable[..., list[Tensor]], leaves: list[Tensor]) -> _Code:
    """By the generator behind torch.compile."""
    graph = make_fx(lambda *tensors: [leaf.contiguous() for leaf in function(*tensors)])(*leaves)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    constants = Constants.of(graph)
    with torch.no_grad():
        code = compiled_graph(graph, leaves)
        code(*leaves)
    return lambda given: code(*given), constants

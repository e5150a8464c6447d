"""How the functions of a tick are executed: as they are written, or as machine code (`compiling.py`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Protocol, TypeAlias, TypeVar, final, runtime_checkable

from torch import Tensor

from worldsheet.control.compiled.native import Recursion

R = TypeVar("R")
S = TypeVar("S", bound="Selectable")


def mapped(change: Callable[..., Tensor], first: R, *others: R) -> R:
    """A record whose fields are `change` of the same fields of the given records."""
    names = [field.name for field in fields(first)]  # type: ignore[arg-type]  # records are dataclasses
    made: Any = type(first)
    return made(*(change(*(getattr(record, name) for record in (first, *others))) for name in names))  # type: ignore[no-any-return]


@runtime_checkable
class Selectable(Protocol):
    """A record of tensors of several problems."""

    def select(self: S, index: Tensor) -> S:
        """Some of the problems."""


class Static(ABC):
    """A part of a record that is not taken apart; two with the same signature can stand for each other."""

    @abstractmethod
    def signature(self) -> Hashable:
        """All that matters of it."""

    @abstractmethod
    def executed_by(self, execution: "Execution") -> "Static":
        """The same, where it asks for an execution that one."""


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
    def for_some(
        self,
        chosen: Tensor,
        function: Callable[..., tuple[Tensor, ...]],
        given: tuple[Selectable, ...],
        otherwise: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """What is there otherwise, but for the chosen problems (B,) what the function finds for them alone."""

    @abstractmethod
    def ahead(self, function: Callable[..., tuple[S, Tensor]], state: S, *given: Any) -> S:
        """A state after as many calls of a function as each problem can do by itself; none where that gains nothing.

        Args:
            function: of a state and what is given, for one problem: the next state, and whether it has gone on, (1,).
            state: of all problems.
            given: what else it reads; what its `select` leaves as it is, all problems share.
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
    ) -> Callable[..., list[Tensor]] | None:
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

    def for_some(
        self,
        chosen: Tensor,
        function: Callable[..., tuple[Tensor, ...]],
        given: tuple[Selectable, ...],
        otherwise: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """All of them at once."""
        return for_some(chosen, function, given, otherwise)

    def ahead(self, function: Callable[..., tuple[S, Tensor]], state: S, *given: Any) -> S:
        """The state itself: problems move side by side."""
        return state

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


def for_some(
    chosen: Tensor,
    function: Callable[..., tuple[Tensor, ...]],
    given: tuple[Selectable, ...],
    otherwise: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """What is there otherwise, but for the chosen problems what the function finds for all of them at once."""
    some = chosen.nonzero().flatten()
    if not len(some):
        return otherwise
    found = function(*(part.select(some) for part in given))
    return tuple(old.index_copy(0, some, new) for old, new in zip(otherwise, found, strict=True))

"""Records of tensors: changed field by field, taken apart and put together again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar, final

from torch import Tensor

R = TypeVar("R")


def mapped(change: Callable[..., Tensor], first: R, *others: R) -> R:
    """A record whose fields are `change` of the same fields of the given records."""
    names = [field.name for field in fields(first)]  # type: ignore[arg-type]  # records are dataclasses
    made: Any = type(first)
    return made(*(change(*(getattr(record, name) for record in (first, *others))) for name in names))  # type: ignore[no-any-return]


class Whole(ABC):
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
def _names(record: type) -> tuple[str, ...]:
    """The fields of a record; none of what is not taken apart."""
    return (
        tuple(field.name for field in fields(record)) if is_dataclass(record) and not issubclass(record, Whole) else ()
    )


def taken_apart(record: Any, leaves: list[Tensor], kept: list[Any]) -> Form:
    """Append the tensors of nested records and tuples to `leaves`, what is none to `kept`, and return the form."""
    if isinstance(record, Tensor):
        leaves.append(record)
        return None
    made: Any = type(record)
    if made is tuple:
        return (made, *[taken_apart(part, leaves, kept) for part in record])
    names = _names(made)
    if names:
        return (made, *[taken_apart(getattr(record, name), leaves, kept) for name in names])
    kept.append(record)
    return _Kept(record.signature() if isinstance(record, Whole) else record)


def put_together(form: Form, leaves: Iterator[Tensor], kept: Iterator[Any]) -> Any:
    """The record again, with other tensors."""
    if form is None:
        return next(leaves)
    if isinstance(form, _Kept):
        return next(kept)
    made, *forms = form
    parts = [put_together(part, leaves, kept) for part in forms]
    return tuple(parts) if made is tuple else made(*parts)

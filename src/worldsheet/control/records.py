"""Records of tensors, changed field by field."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

R = TypeVar("R")


def mapped(change: Callable[..., Tensor], first: R, *others: R) -> R:
    """A record whose fields are `change` of the same fields of the given records."""
    names = [field.name for field in fields(first)]  # type: ignore[arg-type]  # records are dataclasses
    made: Any = type(first)
    return made(*(change(*(getattr(record, name) for record in (first, *others))) for name in names))  # type: ignore[no-any-return]

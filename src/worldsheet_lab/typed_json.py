"""Dataclasses as JSON text: what a run is made of is written down, and read again with the types it had."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from worldsheet.core.errors import WorldsheetError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Read = TypeVar("Read")


def to_json(value: "DataclassInstance") -> str:
    """One JSON object with a member per field."""
    return json.dumps(asdict(value), indent=2)


def from_json(kind: type[Read], text: str | bytes) -> Read:
    """The dataclass that `to_json` wrote.

    Raises:
        ValueError: what is no JSON, has a member too many or too few, or has a value of another type or range; its
            sentence names the member and what was found.
    """
    try:
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError("; ".join(_sentences(error))) from error


def _sentences(error: ValidationError) -> Iterator[str]:
    for found in error.errors(include_url=False):
        where = ".".join(map(str, found["loc"]))
        yield _sentence(found["type"], where, found["msg"], found["input"], found.get("ctx", {}).get("error"))


def _sentence(kind: str, where: str, message: str, found: object, cause: object) -> str:
    if cause is not None:  # a refusal of the dataclass itself
        return cause.problem if isinstance(cause, WorldsheetError) else str(cause)
    if not where:
        return message
    return f"{where} is missing" if kind == "missing" else f"{where} is {found!r}: {message[0].lower()}{message[1:]}"

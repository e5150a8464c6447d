"""A command from a dataclass: its fields are the options, its docstring the help."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import Any, TypeVar, get_type_hints

Options = TypeVar("Options")


def command(options: type[Options], run: Callable[[Options], None]) -> Callable[..., None]:
    """A function that typer makes a command of.

    Args:
        options: a dataclass whose fields are annotated with typer's options.
        run: what to do; it imports late what it needs.
    """
    hints = get_type_hints(options, include_extras=True)

    def call(**chosen: Any) -> None:
        run(options(**chosen))

    call.__name__, call.__doc__, call.__annotations__ = options.__name__.lower(), options.__doc__, hints
    parameters = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)  # type: ignore[arg-type]  # dataclasses are no type
    ]
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return call

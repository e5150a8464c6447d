"""A command from a dataclass: its fields are the options, its docstring the help."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import Any, TypeVar, get_type_hints

import typer

Options = TypeVar("Options")

NAMED = "named"


def command(options: type[Options], run: Callable[[Options], None]) -> Callable[..., None]:
    """A function that typer makes a command of.

    Args:
        options: a dataclass whose fields are annotated with typer's options; a field `named` is given the names of
            those that stand on the command line.
        run: what to do; it imports late what it needs.
    """
    hints = get_type_hints(options, include_extras=True)

    known = [field for field in fields(options) if field.name != NAMED]  # type: ignore[arg-type]  # dataclasses are no type
    tells = NAMED in hints

    def call(of_typer: Any, **chosen: Any) -> None:
        run(options(**chosen, **({NAMED: _on_the_line(of_typer)} if tells else {})))

    hints = {**hints, "of_typer": typer.Context}
    call.__name__, call.__doc__, call.__annotations__ = options.__name__.lower(), options.__doc__, hints
    parameters = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in known
    ]
    parameters.insert(0, Parameter("of_typer", Parameter.KEYWORD_ONLY, annotation=typer.Context))
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return call


def _on_the_line(context: Any) -> frozenset[str]:
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")

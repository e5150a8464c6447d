"""A group of commands."""

import sys
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup


class Commands(TyperGroup):
    """The commands, whose refusals are told in a few lines and not by a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run what was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            raise typer.Exit(130) from None
        except Exception as error:
            if not _is_refusal(error):
                raise
            Console(stderr=True).print(_told(error), soft_wrap=True)
            raise typer.Exit(2) from error


def _is_refusal(error: Exception) -> bool:
    """Whether an error is the library's own: then the library has been imported."""
    errors = sys.modules.get("worldsheet.core.errors")
    return errors is not None and isinstance(error, errors.WorldsheetError)


def _told(error: Any) -> Text:
    text = Text.assemble(("error: ", "bold red"), error.problem)
    return text.append(f"\n  accepted: {error.accepted}\n  remedy: {error.remedy}")

"""Commands of a command line."""

from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from worldsheet.core.errors import WorldsheetError


class Commands(TyperGroup):
    """The commands, whose refusals are told in a few lines and not by a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run what was asked for."""
        try:
            return super().invoke(ctx)
        except WorldsheetError as error:
            text = Text.assemble(("error: ", "bold red"), error.given)
            text.append(f"\n  accepted: {error.accepted}\n  remedy: {error.remedy}")
            Console(stderr=True).print(text, soft_wrap=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            raise typer.Exit(130) from None

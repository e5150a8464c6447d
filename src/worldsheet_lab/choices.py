"""A name from the command line or a file, looked up in a table of what there is."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from worldsheet.core.errors import InputError

Choice = TypeVar("Choice")


def choose(kind: str, name: str, table: Mapping[str, Choice]) -> Choice:
    """The entry of `table` under `name`.

    Raises:
        InputError: an unknown name; the known ones are listed and the closest is suggested.
    """
    if name in table:
        return table[name]
    begun = [known for known in table if name and known.startswith(name.lower())]
    close = begun or difflib.get_close_matches(name.lower(), table, n=1)
    raise InputError(
        problem=f"no {kind} is called {name!r}",
        accepted=", ".join(table),
        remedy=f"did you mean {close[0]!r}?" if close else "choose one of these names",
    )

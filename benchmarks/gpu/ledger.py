"""What a part has found so far: a line for each item, written when it is known."""

import json
import os
from pathlib import Path
from typing import Any, final

STARTED = "started"
FOUND = "found"
FAILED = "failed"
NOT_HERE = "not here"
UNFINISHED = "unfinished"

_TO_REPEAT = frozenset((STARTED, FAILED, UNFINISHED))


@final
class Ledger:
    """The lines of one part; a process that is killed loses the item that it was at, and nothing else.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # a process may have been killed within a line
                    row = json.loads(line)
                    self.rows[row["item"]] = row

    def is_done(self, item: str) -> bool:
        """Whether an item need not be measured again."""
        return item in self.rows and self.rows[item]["state"] not in _TO_REPEAT

    def note(self, item: str, state: str, seconds: float, figures: dict[str, Any]) -> None:
        """Keep a line, on the disk."""
        row = self.rows[item] = {"item": item, "state": state, "seconds": round(seconds, 3), "figures": figures}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

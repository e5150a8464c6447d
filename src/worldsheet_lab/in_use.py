"""One command at a time writes into a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from worldsheet_lab.errors import RunFolderError

LOCK = ".in-use"


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other commands from writing into a folder; a process that ends, however it does, lets it go.

    Raises:
        RunFolderError: another command has it.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunFolderError(
            f"{folder} is in use by another command that trains there",
            "one command a run folder",
            "wait for it or stop it, or train in a new folder with --run",
        ) from error
    try:
        yield
    finally:
        lock.release()

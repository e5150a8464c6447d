"""Files that are either the old ones or the new ones, never half of each."""

import os
import tempfile
from pathlib import Path

SUFFIX = ".partial"


def replace_file(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """Write `content` beside `path` and put it in its place once it is on the disk.

    Args:
        path: the file.
        content: what shall be in it.
        lasting: whether it must survive a loss of power; what is replaced twice a second need not.

    Raises:
        OSError: the folder cannot be written; `path` is as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())  # mkstemp makes files that nobody else can read
        partial.replace(path)
    except BaseException:  # a second Ctrl-C too must leave no litter
        partial.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

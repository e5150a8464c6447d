"""What the readers share: raw images and labels, the bytes of a file, and the refusal of a damaged one."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from worldsheet_lab.errors import DataMissingError

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as its files hold it: images uint8 (N, C, H, W), labels of any integer type (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def damaged(path: Path, found: str, expected: str) -> DataMissingError:
    """The refusal of a file that is there but cannot be what its name says."""
    return DataMissingError(
        problem=f"{path} cannot be used: it {found}",
        accepted=expected,
        remedy="put an intact copy in its place; once deleted, a file of the download cache is fetched again",
    )


def read_bytes(path: Path) -> bytearray:
    """Read a file whole, unpacking it if it is gzip-compressed."""
    try:
        content = path.read_bytes()
        # Judged by content, not by suffix: browsers unpack some downloads and leave the name as it was.
        return bytearray(gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, f"cannot be read ({error})", "a readable file, plain or gzip-compressed") from error


def check_labels(path: Path, labels: Tensor, classes: int) -> None:
    """Refuse labels outside 0 to `classes` - 1."""
    highest = int(labels.max())
    if highest >= classes:
        raise damaged(path, f"has the label {highest}", f"labels from 0 to {classes - 1}")

"""Downloads into the user's cache, checked by SHA-256."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

# Seconds to connect, and between two packets: without a network the refusal must come soon.
_TIMEOUT = (5.0, 20.0)
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Download:
    """A published file, and for an archive the members to unpack from it."""

    url: str
    sha256: str
    members: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The last part of the address, kept as the name on disk."""
        return self.url.rpartition("/")[2]


class Bar:
    """The progress of one download on stderr, in the form pooch asks for: `total`, `update`, `reset`, `close`."""

    def __init__(self, label: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(label, total=None)

    @property
    def total(self) -> float | None:
        """Bytes to come, None while unknown; setting it draws the bar."""
        return self._progress.tasks[0].total

    @total.setter
    def total(self, size: int) -> None:
        # pooch sets the size once the server has answered; a refused connection thus draws no bar.
        # It reports an unknown size as 0.
        self._progress.update(self._task, total=size or None)
        self._progress.start()

    def update(self, size: int) -> None:
        """Advance by `size` bytes."""
        self._progress.update(self._task, advance=size)

    def reset(self) -> None:
        """Go back to zero; pooch does so to set the exact size at the end."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def cache() -> Path:
    """The folder that keeps downloads, one sub-folder per data set."""
    return Path(os.fspath(pooch.os_cache("worldsheet")))


def fetch(download: Download, folder: Path) -> None:
    """Download one file into `folder` and unpack it there, unless an intact copy is there already.

    Raises:
        OSError: if the server cannot be reached or the folder not written.
        ValueError: if the checksum differs; nothing is kept then.
    """
    # Members are named one by one, so that an unpacking cut short is noticed and repeated.
    unpack = pooch.Untar(members=list(download.members), extract_dir=".") if download.members else None
    with Bar(download.file_name) as bar:
        pooch.retrieve(
            download.url,
            known_hash=f"sha256:{download.sha256}",
            fname=download.file_name,
            path=folder,
            processor=unpack,
            downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT),
        )

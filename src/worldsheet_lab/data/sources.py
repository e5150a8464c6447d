"""Where the files of a data set are looked for, and what to say when they are nowhere."""

import os
from dataclasses import dataclass
from pathlib import Path

from worldsheet_lab.data.download import Download, cache, fetch
from worldsheet_lab.errors import DataMissingError

VARIABLE = "WORLDSHEET_DATA"


@dataclass(frozen=True)
class Files:
    """The files of one data set.

    Args:
        name: the data set, and its sub-folder of the download cache.
        spellings: for each file the names it goes by, the best known first.
        folders: the sub-folders of a data folder to look in, before the data folder itself.
        downloads: what to fetch to have them all.
        system: folders in which a distribution's package puts them.
    """

    name: str
    spellings: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...]
    downloads: tuple[Download, ...]
    system: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Found:
    """The files of one data set, in the order of `Files.spellings`, and where they came from."""

    paths: tuple[Path, ...]
    source: str


@dataclass(frozen=True)
class _Look:
    """What one folder holds: a path for each file that is there, None for each that is not."""

    folder: Path
    paths: tuple[Path | None, ...]

    @property
    def present(self) -> tuple[Path, ...]:
        return tuple(path for path in self.paths if path is not None)

    def missing(self, files: Files) -> str:
        pairs = zip(files.spellings, self.paths, strict=True)
        return ", ".join(spelling[0] for spelling, path in pairs if path is None)


def locate(files: Files, data_dir: str | Path | None, download: bool) -> Found:
    """Find the files of a data set, or fetch them.

    Looks in `data_dir`, in the folder that the environment variable WORLDSHEET_DATA names, where a distribution
    puts them, and in the cache of earlier downloads; then downloads into that cache.

    Raises:
        DataMissingError: if they are nowhere, or only some of them are in a folder the user named.
    """
    looked = []
    for place in _named(files, data_dir):
        look = _look(place, files)
        if look.present and look.missing(files):
            raise _half_present(files, look)
        looked.append(look)
    # Half a set in the cache is a download cut short: no fault of the user, and completed below.
    looked += [_look(place, files) for place in (*files.system, cache())]
    for look in looked:
        if not look.missing(files):
            return Found(look.present, str(look.folder))
    if not download:
        raise _nowhere(files, looked, "downloading is switched off")
    return _download(files, looked)


def _named(files: Files, data_dir: str | Path | None) -> list[Path]:
    """The folders the user named, each of which must exist: a misspelt one would otherwise start a download."""
    variable = os.environ.get(VARIABLE)
    named = [
        (origin, Path(folder).expanduser())
        for origin, folder in (("--data-dir", data_dir), (f"${VARIABLE}", variable or None))
        if folder is not None
    ]
    for origin, folder in named:
        if not folder.is_dir():
            raise DataMissingError(
                problem=f"{origin} {folder} " + ("is not a folder" if folder.exists() else "does not exist"),
                accepted=_accepted(files),
                remedy=f"correct {origin} or create the folder; {_remedy(files)}",
            )
    return [folder for _, folder in named]


def _look(place: Path, files: Files) -> _Look:
    """Look in a folder and its sub-folders; the one that holds most of the files stands for all of them."""
    folders = [*(place / sub for sub in files.folders), place]
    looks = [_Look(folder, tuple(_first(folder, names) for names in files.spellings)) for folder in folders]
    best = max(looks, key=lambda look: len(look.present))
    return best if best.present else looks[-1]


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _download(files: Files, looked: list[_Look]) -> Found:
    folder = cache() / files.name
    for item in files.downloads:
        try:
            fetch(item, folder)
        except (OSError, ValueError) as error:
            reason = f"the download of {item.url} failed ({_innermost(error)})"
            raise _nowhere(files, looked, reason) from error
    look = _look(cache(), files)
    if look.missing(files):
        raise _nowhere(files, [*looked, look], "the download lacks some of its files")
    return Found(look.present, f"downloaded from {files.downloads[0].url.rpartition('/')[0]} to {look.folder}")


def _innermost(error: BaseException) -> str:
    """The first line of the error at the root, such as the failed look-up of a host behind three wrappers."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _half_present(files: Files, look: _Look) -> DataMissingError:
    there = ", ".join(path.name for path in look.present)
    return DataMissingError(
        problem=f"{look.folder} holds only some of the files of {files.name}: {there}; missing: {look.missing(files)}",
        accepted=_accepted(files),
        remedy=f"add to {look.folder}: {look.missing(files)}",
    )


def _nowhere(files: Files, looked: list[_Look], reason: str) -> DataMissingError:
    places = ", ".join(
        f"{look.folder} (which lacks {look.missing(files)})" if look.present else str(look.folder) for look in looked
    )
    return DataMissingError(
        problem=f"there is no complete copy of {files.name} in {places}; {reason}",
        accepted=_accepted(files),
        remedy=_remedy(files),
    )


def _accepted(files: Files) -> str:
    names = ", ".join(spelling[0] for spelling in files.spellings)
    return f"a folder that holds {names} (each plain or gzip-compressed)"


def _remedy(files: Files) -> str:
    return (
        f"put these files into a folder, or into its sub-folder {files.folders[0]}/, and name that folder by "
        f"--data-dir (in Python data_dir=) or ${VARIABLE}, or put them into {cache() / files.name}; "
        "the data set 'digits' needs no files"
    )

"""A run folder: everything that one run leaves on the disk."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from safetensors.torch import load, save
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet_lab.atomic import SUFFIX, replace_file
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.provenance import provenance
from worldsheet_lab.recipes import Recipe
from worldsheet_lab.text.recipe import TextRecipe

Row: TypeAlias = dict[str, Any]
"""One line of metrics.jsonl."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
RESULT = "result.json"


@final
class RunFolder:
    """Writes and reads the files of one run; every write leaves the old file or the new one.

    - `config.json`: the recipe, and the command, machine, moment and versions it was started with.
    - `metrics.jsonl`: a line per epoch and contender, and one per comparison of gradients.
    - `checkpoint.pt`: what a run needs to go on; metrics beyond the length noted in it are dropped then.
    - `result.json`: written last; a folder that has it is finished.
    - weights and records as safetensors, figures as PNG.

    Use `create`, `open` or `at`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def create(recipe: Recipe | TextRecipe, path: Path | None = None) -> "RunFolder":
        """A new run, at `path` or in `runs/<data>-<date-time>`.

        Raises:
            RunFolderError: a folder that holds something already, or a place that cannot be written.
        """
        place = path if path is not None else _unused(Path("runs"), recipe.data)
        with _told(place):
            if place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise _occupied(place)
            place.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(place)
        config = {**provenance(recipe.device), "recipe": json.loads(recipe.to_json())}
        folder.write(METRICS, b"")
        folder.write(CONFIG, json.dumps(config, indent=2).encode() + b"\n")
        return folder

    @staticmethod
    def at(path: Path) -> "RunFolder":
        """A folder for files that replace each other, made if it is not there: of a run that takes seconds.

        Raises:
            RunFolderError: a place that cannot be written.
        """
        with _told(path):
            path.mkdir(parents=True, exist_ok=True)
        return RunFolder(path)

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """The folder of a run that was started before.

        Raises:
            RunFolderError: no such folder, or one that holds no run.
        """
        if not (path / CONFIG).is_file():
            raise RunFolderError(
                f"there is no {CONFIG} in {path}" if path.is_dir() else f"there is no folder {path}",
                "the folder of a run that worldsheet train started",
                "name the folder that the run printed when it began, such as runs/digits-...",
            )
        with _told(path):
            for litter in path.glob(f".*{SUFFIX}"):  # of a process that was killed while writing
                litter.unlink()
        return RunFolder(path)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return (self.path / RESULT).is_file()

    def recipe(self) -> Recipe:
        """The recipe that the run was started with.

        Raises:
            RunFolderError: an unreadable or altered config.json.
        """
        text = self.read(CONFIG)
        try:
            return Recipe.from_json(json.dumps(json.loads(text)["recipe"]))
        except InputError as error:
            problem = f"{self.path / CONFIG} cannot be used: {error.problem}"
            raise RunFolderError(problem, error.accepted, error.remedy) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(self.path / CONFIG, error) from error

    def result(self) -> Row:
        """What the finished run has shown.

        Raises:
            RunFolderError: the run is not finished, or its result.json is damaged.
        """
        content = self.read(RESULT)
        try:
            result: Row = json.loads(content)
        except ValueError as error:
            raise _damaged(self.path / RESULT, error) from error
        return result

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        with _told(self.path):
            replace_file(self.path / name, content)

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            RunFolderError: the file is missing or cannot be read.
        """
        with _told(self.path):
            return (self.path / name).read_bytes()

    def append(self, row: Row) -> None:
        """Add a line to metrics.jsonl."""
        with _told(self.path), (self.path / METRICS).open("ab") as file:
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """The lines of metrics.jsonl.

        Raises:
            RunFolderError: a line that is no JSON.
        """
        try:
            return [json.loads(line) for line in self.read(METRICS).splitlines()]
        except ValueError as error:
            raise _damaged(self.path / METRICS, error) from error

    def keep_rows(self, wanted: Callable[[Row], bool]) -> None:
        """Drop the lines of metrics.jsonl that are not wanted: a run that goes on will write them again."""
        kept = [json.dumps(row, allow_nan=False).encode() + b"\n" for row in self.rows() if wanted(row)]
        self.write(METRICS, b"".join(kept))

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file."""
        self.write(name, save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        content = self.read(name)
        try:
            return load(content)
        except Exception as error:  # safetensors has an error class of its own and raises others too
            raise _damaged(self.path / name, error) from error

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write checkpoint.pt, with the present length of metrics.jsonl."""
        with _told(self.path):
            length = (self.path / METRICS).stat().st_size
        buffer = io.BytesIO()
        torch.save({**state, "metrics_length": length}, buffer)
        self.write(CHECKPOINT, buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any]:
        """Read checkpoint.pt and cut metrics.jsonl back to where it stood then.

        Raises:
            RunFolderError: a checkpoint that is missing, torn or of something else.
        """
        path = self.path / CHECKPOINT
        content = self.read(CHECKPOINT)
        try:
            flipped = zipfile.ZipFile(io.BytesIO(content)).testzip()  # torch.load does not look at the checksums
            if flipped is not None:
                raise ValueError(f"wrong checksum of {flipped}")
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            length = int(state["metrics_length"])
        except Exception as error:  # a torn archive fails in many ways, none of them documented
            raise _damaged(path, error) from error
        with _told(self.path):
            if (self.path / METRICS).stat().st_size < length:
                raise _damaged(self.path / METRICS, ValueError(f"shorter than the {length} bytes it had"))
            os.truncate(self.path / METRICS, length)
        return state


def damaged_checkpoint(folder: RunFolder, error: Exception) -> RunFolderError:
    """The refusal of a checkpoint that can be read but does not fit its recipe."""
    return _damaged(folder.path / CHECKPOINT, error)


def _unused(parent: Path, data: str) -> Path:
    stem = f"{data}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = parent / stem, 1
    while path.exists():
        number += 1
        path = parent / f"{stem}-{number}"
    return path


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what the operating system refuses in the words of the house."""
    try:
        yield
    except RunFolderError:
        raise
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else path
        raise RunFolderError(
            f"{place} cannot be read or written: {error.strerror or error}",
            "a run folder that can be read and written, on a disk with room",
            "choose another folder with --run, or change its permissions",
        ) from error


def _occupied(path: Path) -> RunFolderError:
    if (path / CONFIG).is_file():
        return RunFolderError(
            f"{path} holds a run already",
            "an empty folder, or one that does not exist yet",
            f"continue that run with --resume {path}, or choose another folder with --run",
        )
    return RunFolderError(
        f"{path} " + ("holds files that do not belong to a run" if path.is_dir() else "is a file, not a folder"),
        "an empty folder, or one that does not exist yet",
        "choose another folder with --run; nothing in this one was touched",
    )


def _damaged(path: Path, error: Exception) -> RunFolderError:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return RunFolderError(
        f"{path} is damaged or belongs to another run ({reason})",
        f"{path.name} as the command that made the folder wrote it",
        "restore the file from a copy, or start a new run with the same recipe, seed and, in stages, --cuts: its "
        "results are the same",
    )

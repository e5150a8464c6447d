"""Machine code that was made before, on disk: found by its source, its flags, the compiler and the processor."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from worldsheet.core.errors import InputError
from worldsheet.version import __version__

FOLDER = "WORLDSHEET_CACHE"
"""The environment variable that names another folder for machine code; empty, and none is kept."""

COMPILERS = ("cc", "gcc", "clang")
"""The C compilers that are looked for, in this order."""

C_TYPES = {torch.float64: "double", torch.float32: "float"}
"""The dtypes that C has."""

_KEY = "worldsheet_key"
_PROCESSOR = Path("/proc/cpuinfo")


def found_compiler() -> str | None:
    """The C compiler of this machine, if there is one."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def native_library(source: str, compiler: str, dtype: torch.dtype, effort: str = "-O3") -> Any:
    """C source whose numbers are called REAL, compiled for the processor of this machine, now or at an earlier time."""
    flags = (effort, "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-w", "-fPIC", "-shared")
    return library(source, (compiler, *flags, f"-DREAL={C_TYPES[dtype]}"))


def library(source: str, command: tuple[str, ...]) -> Any:
    """C source as a loaded library: from disk where it has been made on this machine, else made and kept there.

    A file is named after what it was made of and what is in it, and holds the first as a symbol: one that is cut short,
    has been changed or lies under another's name is made anew. It comes to its place complete or not at all, so that
    processes may write it at the same time. Where the folder cannot be written, nothing is kept.

    Args:
        source: C.
        command: the compiler and its flags.

    Raises:
        InputError: the compiler failed.
    """
    key = hashlib.sha256("\0".join((source, *command, *_surroundings(command[0]))).encode()).hexdigest()
    place = _place(key)
    found = None if place is None else _found(place, key)
    if found is not None:
        return found
    whole = f'{source}\nconst char {_KEY}[] = "{key}";\n'
    with _workshop(place) as folder:
        made = _made(whole, command, folder)
        if place is not None:
            with suppress(OSError):
                made = made.replace(place / f"{key}-{_digest(made)}.so")
        return ctypes.CDLL(str(made))


def _surroundings(compiler: str) -> tuple[str, ...]:
    """What else decides about machine code: this library, the compiler and the processor."""
    file = Path(compiler).resolve()
    about = file.stat()
    return (__version__, str(file), str(about.st_size), str(about.st_mtime_ns), _processor())


@cache
def _processor() -> str:
    """What `-march=native` stands for here."""
    with suppress(OSError):
        lines = _PROCESSOR.read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("vendor_id", "model", "flags", "Features", "CPU")))
    return f"{platform.machine()} {platform.processor()}"


def _place(key: str) -> Path | None:
    """The folder for this code; None where nothing can be kept."""
    chosen = os.environ.get(FOLDER)
    if chosen == "":
        return None
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    whole = Path(chosen) if chosen else Path(home) / "worldsheet" / "compiled"
    try:
        place = whole.expanduser() / key[:2]
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that is not ours
        return None
    return place if os.access(place, os.W_OK) else None


def _found(place: Path, key: str) -> Any:
    """A library that is what its name says, or None."""
    for file in place.glob(f"{key}-*.so"):
        with suppress(OSError, ValueError):
            if file.stem == f"{key}-{_digest(file)}":
                code = ctypes.CDLL(str(file))
                if (ctypes.c_char * len(key)).in_dll(code, _KEY).value.decode() == key:
                    return code
        with suppress(OSError):
            file.unlink()
    return None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def _workshop(place: Path | None) -> Iterator[Path]:
    """A folder to make code in, beside where it will lie, so that it can be moved there at once."""
    with TemporaryDirectory(dir=place, prefix="making-") as folder:
        yield Path(folder)


def _made(source: str, command: tuple[str, ...], folder: Path) -> Path:
    file, made = folder / "source.c", folder / "source.so"
    file.write_text(source)
    done = subprocess.run([*command, str(file), "-o", str(made), "-lm"], capture_output=True, text=True, check=False)
    if done.returncode:
        problem = f"the C compiler {command[0]} failed: {done.stderr.strip()[:300]}"
        raise InputError(problem, "a C compiler that works", "try gcc")
    return made

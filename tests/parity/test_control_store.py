"""Machine code on disk: what is found again is what was made, and what is not whole is made anew."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import worldsheet as ws
from nets import assert_tells
from plants import DOUBLE, pendulum
from worldsheet.control.compiled.native import compiler
from worldsheet.core.machine_code import FOLDER, library

C = ws.control
pytestmark = pytest.mark.skipif(
    all(shutil.which(name) is None for name in ("cc", "gcc", "clang")), reason="no C compiler"
)
SOURCE = "#ifndef ANSWER\n#define ANSWER 42\n#endif\nint answer(void) { return ANSWER; }\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that the compiler was called with."""
    seen: list[tuple[str, ...]] = []
    run = subprocess.run

    def counted(command: list[str], **options: bool) -> object:
        seen.append(tuple(command))
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", counted)
    return seen


def made(*flags: str, source: str = SOURCE) -> int:
    answer: int = library(source, (compiler(DOUBLE), "-fPIC", "-shared", *flags)).answer()
    return answer


def here() -> dict[str, str]:
    """For a process that is to find what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((*sys.path, str(Path(__file__).parents[1])))}


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def test_code_is_made_once(folder: Path, compilations: list[tuple[str, ...]]) -> None:
    assert [made(), made(), made()] == [42, 42, 42]
    assert len(compilations) == len(entries(folder)) == 1


def test_other_flags_and_other_source_are_other_code(folder: Path, compilations: list[tuple[str, ...]]) -> None:
    assert [made(), made("-DANSWER=7"), made(source=SOURCE.replace("42", "43")), made("-DANSWER=7")] == [42, 7, 43, 7]
    assert len(compilations) == len(entries(folder)) == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "another's"])
def test_an_entry_that_is_not_whole_is_made_anew(
    folder: Path, compilations: list[tuple[str, ...]], damage: str
) -> None:
    # in processes of their own: a library that is loaded stays loaded
    code = (
        "from parity.test_control_store import made, SOURCE\n"
        "print(made(), made(source=SOURCE.replace('42', '43')) if {other} else '')"
    )

    def answer(other: bool = False) -> str:
        command = [sys.executable, "-c", code.format(other=other)]
        done = subprocess.run(command, env=here(), capture_output=True, text=True, check=True)
        return done.stdout.split()[0]

    assert answer(other=damage == "another's") == "42"
    file = _of_key_42(folder)
    whole = file.read_bytes()
    if damage == "another's":
        (other,) = [each for each in entries(folder) if each != file]
        file.unlink()  # another's code under this one's name, its own digest right
        shutil.copy(other, file.with_name(f"{file.stem.split('-')[0]}-{other.stem.split('-')[1]}.so"))
    else:
        file.write_bytes({"cut": whole[: len(whole) // 2], "changed": whole[:-1] + b"?", "empty": b""}[damage])
    assert answer() == "42"
    assert _of_key_42(folder).read_bytes() == whole


def _of_key_42(folder: Path) -> Path:
    found = [file for file in entries(folder) if b"worldsheet_key" in file.read_bytes() and _is_42(file)]
    assert len(found) == 1
    return found[0]


def _is_42(file: Path) -> bool:
    text = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"
    done = subprocess.run([sys.executable, "-c", text, str(file)], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "42"


def test_processes_may_make_the_same_code_at_the_same_time(folder: Path) -> None:
    begin = time.time() + 6
    text = (
        "import time; from parity.test_control_store import made; "
        f"time.sleep(max(0, {begin} - time.time())); print([made(f'-DANSWER={{n}}') for n in range(3)])"
    )
    command = [sys.executable, "-c", text]
    running = [subprocess.Popen(command, env=here(), stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [each.communicate()[0].strip() for each in running] == ["[0, 1, 2]"] * 3
    assert all(file.suffix == ".so" for file in entries(folder))  # nothing half made is left
    assert len({file.stem.split("-")[0] for file in entries(folder)}) == 3


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "cache"))
    assert made() == 42
    monkeypatch.setenv(FOLDER, "")
    assert made() == 42
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_cache_lies_where_such_things_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made()
    assert len(entries(tmp_path / "worldsheet" / "compiled")) == 1


def test_a_compiler_that_fails_says_why(folder: Path) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        made(source="this is no C")
    assert_tells(refusal.value, "the C compiler", "failed", "try gcc")
    assert not entries(folder)


def test_a_problem_that_was_compiled_before_compiles_nothing(folder: Path, compilations: list[tuple[str, ...]]) -> None:
    def solved() -> float:
        problem = C.Problem(**{**vars(pendulum(torch.zeros(1, 2, dtype=DOUBLE), 12)), "execution": C.Compiled()})
        return float(C.solve(problem).cost)

    first = solved()
    count = len(compilations)
    assert count > 0
    assert solved() == first
    assert len(compilations) == count == len(entries(folder))

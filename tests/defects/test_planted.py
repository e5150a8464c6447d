"""One line is made wrong in a copy of the library, and the tests that should see it must see it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import worldsheet as ws
from defects import elsewhere, in_cuts

TESTS = Path(__file__).parents[1]


DEFECTS = {**elsewhere.DEFECTS, **in_cuts.DEFECTS}


def run_tests(library: Path, *selection: str) -> subprocess.CompletedProcess[str]:
    """The chosen tests on another copy of the library, without the annotation checker, which may speak first."""
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:xdist", "-x", "--tb=line"]
    paths = f"pythonpath={library} {TESTS} {TESTS.parent / 'tools'}"
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-o", "addopts=", "-o", paths, *selection],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with a copy of the library in it."""
    shutil.copytree(Path(ws.__file__).parent, tmp_path / "worldsheet", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_caught(name: str, library: Path) -> None:
    defect = DEFECTS[name]
    source = library / "worldsheet" / defect.file
    text = source.read_text(encoding="utf-8")
    assert text.count(defect.right) == 1, f"{defect.file} has changed: plant this defect anew"
    source.write_text(text.replace(defect.right, defect.wrong), encoding="utf-8")
    done = run_tests(library, str(TESTS / defect.test), "-k", defect.choice)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "error" not in done.stdout.splitlines()[-1], done.stdout


def test_the_same_tests_pass_on_an_unspoilt_copy(library: Path) -> None:
    files = sorted({str(TESTS / defect.test) for defect in DEFECTS.values()})
    choice = " or ".join(f"({defect.choice})" for defect in DEFECTS.values())
    done = run_tests(library, *files, "-k", choice)
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    passed = int(done.stdout.splitlines()[-1].split(" passed")[0].split()[-1])
    assert passed >= len(DEFECTS)

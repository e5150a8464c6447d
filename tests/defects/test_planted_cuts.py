"""More planted defects, in what a cut forward remembers, shares and leaves, and the tests that must see them."""

import shutil
from pathlib import Path

import pytest

import worldsheet as ws
from defects.test_planted import TESTS, Defect, run_tests

DEFECTS = {
    "credits-arrive-when-the-call-is-over": Defect(
        "cut/state.py",
        "if not self._gate.is_open:",
        "if False:",
        "refusals/test_module_refusals.py",
        "later_backward",
    ),
    "a-shared-graph-is-freed-too-early": Defect(
        "cut/walk.py",
        "kept[known] = kept[part] = True",
        "kept[known] = True",
        "parity/test_any_module.py",
        "overwritten_for_its_readers",
    ),
    "a-hook-on-a-parameter-hears-every-part": Defect(
        "cut/pull.py",
        "pull = _Gathering(None if parts else held) if parts or held else _accumulate",
        "pull = _accumulate",
        "parity/test_strangers.py",
        "hooks_after_accumulation_run_once and Tied and by_sites",
    ),
    "a-path-that-ends-early-is-not-noticed": Defect(
        "cut/replayed.py",
        "if self._changed or calls != len(self._plan):",
        "if self._changed:",
        "refusals/test_module_refusals.py",
        "sites_change_with_its_states and Stopping",
    ),
    "what-a-forward-keeps-is-kept-at-every-run": Defect(
        "cut/world.py",
        "        after = self._look()\n        self._put_back(self._before)\n",
        "        after = self._look()\n",
        "parity/test_any_module.py",
        "what_a_forward_keeps",
    ),
    "memory-that-others-hold-may-be-written": Defect(
        "cut/run.py",
        "_names_of_base(prediction) > _NAMES",
        "_names_of_base(prediction) > 99",
        "laws/test_random_programs.py",
        "easily_got_wrong and returns",
    ),
    "insides-are-computed-again-inside-of-what-is-computed-again": Defect(
        "cut/run.py",
        "self._inside == 1 and name is not None and self._cuts:",
        "self._inside == 1 and name is not None:",
        "laws/test_random_programs.py",
        "computed_again_as_they_were and checkpoint",
    ),
    "a-sum-is-no-site": Defect(
        "cut/run.py",
        "if self._inside or not self._joins or made.dim() == 0:",
        "if made.dim() >= 0:",
        "parity/test_any_module.py",
        "by_default_blocks_are_sites",
    ),
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with a copy of the library in it."""
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(ws.__file__).parent, tmp_path / "worldsheet", ignore=left_out)
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
    for name in sorted({defect.test for defect in DEFECTS.values()}):
        choices = sorted({defect.choice for defect in DEFECTS.values() if defect.test == name})
        done = run_tests(library, str(TESTS / name), "-k", " or ".join(f"({choice})" for choice in choices))
        assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
        assert int(done.stdout.splitlines()[-1].split(" passed")[0].split()[-1]) >= len(choices)

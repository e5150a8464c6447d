"""Notebooks are kept without outputs, say how long they take, and can be made small."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import run_notebooks

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIME = re.compile(r"^Takes about \d+ (?:s|minutes) on one core", re.MULTILINE)


def cells(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"])


def test_there_are_four() -> None:
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept(path: Path) -> None:
    kept = [n for n, cell in enumerate(cells(path)) if cell.get("outputs") or cell.get("execution_count")]
    assert kept == [], "clear all outputs before a notebook is committed"
    assert path.stat().st_size < 40_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_says_how_long_it_takes(path: Path) -> None:
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    assert TIME.search("".join(first["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_small_size_sets_what_the_notebook_sets(path: Path) -> None:
    whole, small = run_notebooks.sized(path, full=True), run_notebooks.sized(path, full=False)
    assert len(small.cells) == len(whole.cells) + 1
    (place,) = (n for n, cell in enumerate(whole.cells) if "parameters" in cell.metadata.get("tags", []))
    assert assigned(small.cells[place + 1].source) == assigned(whole.cells[place].source)


def assigned(source: str) -> set[str]:
    targets = [node.targets[0] for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    assert len(names) == len(targets)
    return set(names)


def test_a_cell_that_fails_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    broken["cells"] = [
        {"cell_type": "code", "id": "one", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None,
         "source": "epochs = examples = 2\nraise ValueError('planted')"}
    ]  # fmt: skip
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(broken), encoding="utf-8")
    assert run_notebooks.run(path, full=True, out=None) is False
    assert "planted" in capsys.readouterr().out

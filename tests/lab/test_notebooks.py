"""Notebooks are kept with what they show, say how long they take, and can be made small."""

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

import run_notebooks

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
DRAWS = re.compile(r"plt\.subplots")
MACHINE = re.compile(
    r"(?:^|[\s'\"(])(?:/[a-z]+/[\w.-]+|[A-Z]:\\\\)|site-packages|\b\d\d:\d\d:\d\d\b|\b20\d\d-\d\d-\d\d\b"
)
TIME = re.compile(r"^Takes about \d+ (?:s|minutes) on one core", re.MULTILINE)


def cells(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"])


def test_there_are_four() -> None:
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_the_cells_as_they_are(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    made_from = notebook.metadata["worldsheet"].get("made_from")
    assert made_from == run_notebooks.made_from(notebook), "a cell was changed: make notebooks ARGS=--keep"
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        pictures = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert len(pictures) == len(DRAWS.findall("".join(cell["source"])))
        printed = any(output["output_type"] == "stream" for output in cell["outputs"])
        assert printed == ("print(" in "".join(cell["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_small_and_tell_nothing_of_the_machine(path: Path) -> None:
    for cell in cells(path):
        assert "execution" not in cell["metadata"]
        for output in cell.get("outputs", []):
            assert output["output_type"] in ("stream", "display_data")
            assert output.get("name") != "stderr"
            assert MACHINE.search("".join(output.get("text", ""))) is None
            assert len(base64.b64decode(output.get("data", {}).get("image/png", ""))) < 150_000
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize(
    "text", ["see /home/someone/x.py", "  /usr/lib", "C:\\\\Users", "at 12:30:01", "on 2026-01-02", "a/site-packages/b"]
)
def test_what_tells_of_a_machine_is_found(text: str) -> None:
    assert MACHINE.search(text)
    assert MACHINE.search("residual / largest: 1/3, 98.1% and 2:1 after 12 ticks") is None


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

"""Run the notebooks, each from its beginning in a kernel of its own, at small size.

The metadata of a notebook give the small size, `{"worldsheet": {"small": {"epochs": 1}}}`: these names get these values
right below the cell tagged `parameters`. Files are never written to; `--out` keeps executed copies elsewhere. Exit
status 1 if a cell fails.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
TIME_LIMIT = 600  # seconds a cell may take


def sized(path: Path, *, full: bool) -> nbformat.NotebookNode:
    """A notebook as it is, or with its small size put in."""
    notebook = nbformat.read(path, as_version=4)
    if full:
        return notebook
    small = notebook.metadata["worldsheet"]["small"]
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    source = "\n".join(f"{name} = {value!r}" for name, value in small.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    return notebook


def run(path: Path, *, full: bool, out: Path | None) -> bool:
    """Run one notebook and print what it took; whether it went well."""
    notebook, start = sized(path, full=full), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=TIME_LIMIT, resources={"metadata": {"path": folder}})
        try:
            client.execute()
            failure = ""
        except CellExecutionError as error:
            failure = f" FAILED\n{error}"
    print(f"{path.name}{failure or ' ok'}, {time.monotonic() - start:.1f} s", flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out / path.name)
    return not failure


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Run the notebooks at small size.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="files, by default all of notebooks/")
    parser.add_argument("--full", action="store_true", help="as they stand")
    parser.add_argument("--out", type=Path, help="folder for executed copies")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = given.notebooks or sorted(FOLDER.glob("*.ipynb"))
    done = [run(path, full=given.full, out=given.out) for path in paths]
    return 0 if paths and all(done) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Run the notebooks, each from its beginning in a kernel of its own, at small size.

The metadata of a notebook give the small size, `{"worldsheet": {"small": {"epochs": 1}}}`: these names get these values
right below the cell tagged `parameters`. `--out` keeps executed copies elsewhere. `--keep` runs them as they stand and
writes the outputs into the files: what cells print and draw, without warnings of the machine, and in the metadata what
they were made from, so that a test sees whether a cell was changed since. Exit status 1 if a cell fails.
"""

import argparse
import hashlib
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


def made_from(notebook: nbformat.NotebookNode) -> str:
    """A checksum of what its cells say."""
    sources = "\0".join(cell.source for cell in notebook.cells)
    return hashlib.sha256(sources.encode()).hexdigest()


def as_kept(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An executed notebook as it is committed: no warnings, no times, no versions of the machine that ran it."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = _joined(shown)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["worldsheet"]["made_from"] = made_from(notebook)
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Prints that follow each other are one output, however the kernel happened to send them."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if kept and kept[-1].output_type == output.output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def run(path: Path, *, full: bool, out: Path | None, keep: bool = False) -> bool:
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
    if keep and not failure:
        nbformat.write(as_kept(notebook), path)
    return not failure


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Run the notebooks at small size.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="files, by default all of notebooks/")
    parser.add_argument("--full", action="store_true", help="as they stand")
    parser.add_argument("--out", type=Path, help="folder for executed copies")
    parser.add_argument("--keep", action="store_true", help="run them as they stand, and write the outputs into them")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = given.notebooks or sorted(FOLDER.glob("*.ipynb"))
    done = [run(path, full=given.full or given.keep, out=given.out, keep=given.keep) for path in paths]
    return 0 if paths and all(done) else 1


if __name__ == "__main__":
    sys.exit(main())

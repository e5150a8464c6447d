"""Run the code blocks of markdown files: of README.md, or of those named on the command line.

A ```python block runs in a fresh interpreter; a ```bash block (or the `$ ` lines of a ```console block) runs as a
shell script that stops at its first error; others are text. Each has an empty temporary folder, this interpreter's
folder first on PATH, and no display. A Python block right below the comment `<!-- continues -->` goes on where the
last one that ran ended: both are one program. A block right below the comment `<!-- not run: REASON -->` is skipped and
its reason printed; nothing else is ever skipped. Exit status 1 if a block fails.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
SHELL = {"bash", "sh", "shell", "console"}
TIME_LIMIT = 600.0  # seconds a block may take
FENCE = re.compile(
    r"^(?: *<!-- (?:not run:(?P<reason>.*?)|(?P<continues>continues) )-->\s*?\n)?"
    r" *(?P<ticks>`{3,}) *(?P<language>\w*).*\n(?P<source>(?:.*\n)*?)(?: *(?P=ticks)`* *$|\Z)",
    re.MULTILINE,
)
CONSOLE_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
ONLY_IN_A_CHECKOUT = re.compile(r"^\s*(?:make|git clone|(?:\S*python\S* -m )?pip3? install)\b.*", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code, where it stands, and why it is not run (None: it is run)."""

    where: str
    language: str
    source: str
    not_run: str | None


def blocks(path: Path) -> Iterator[Block]:
    """The programs that the Python and shell blocks of one markdown file make, in order."""
    text = path.read_text(encoding="utf-8")
    program: Block | None = None
    for fence in FENCE.finditer(text):
        if fence["language"] not in SHELL | {"python"}:
            continue
        line = text.count("\n", 0, fence.start("ticks")) + 1
        source = textwrap.dedent(fence["source"])
        if fence["language"] == "console":
            source = "\n".join(CONSOLE_COMMAND.findall(source))
        block = Block(f"{os.path.relpath(path)}:{line}", fence["language"], source, _reason(fence))
        if block.language != "python" or block.not_run is not None:
            yield block
        elif fence["continues"] and program is None:
            yield replace(block, not_run="")
        elif fence["continues"] and program is not None:
            program = replace(program, where=f"{program.where}+{line}", source=program.source + block.source)
        else:
            if program is not None:
                yield program
            program = block
    if program is not None:
        yield program


def _reason(fence: re.Match[str]) -> str | None:
    return fence["reason"] and fence["reason"].strip()


def run(block: Block) -> tuple[bool, str]:
    """Run one block: whether it went well, and what to print about it."""
    title, shell = f"{block.where} {block.language}", block.language in SHELL
    if block.not_run is not None:
        return bool(
            block.not_run
        ), f"{title} not run: {block.not_run or 'FAILED, its comment gives no reason, or nothing to continue'}"
    if not block.source.strip():
        return False, f"{title} FAILED: nothing to run (a console block marks its commands with `$ `)"
    if shell and (command := ONLY_IN_A_CHECKOUT.search(block.source)):
        return False, f"{title} FAILED: `{command[0].strip()}` cannot run here: put <!-- not run: REASON --> above it"
    program = ["bash", "-euo", "pipefail", "-c"] if shell else [sys.executable, "-c"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "Agg"}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryDirectory() as folder:
        try:
            status = subprocess.run(
                [*program, block.source], cwd=folder, env=environment, timeout=TIME_LIMIT, check=False,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            ).returncode  # fmt: skip
            verdict = f"FAILED with status {status}" if status else "ok"
        except subprocess.TimeoutExpired:
            verdict = "FAILED, stopped"
        output.seek(0)
        printed = "" if verdict == "ok" else "\n" + output.read().rstrip()
    return verdict == "ok", f"{title} {verdict}, {time.monotonic() - start:.1f} s{printed}"


def check(paths: list[Path]) -> int:
    """Run every block of the files, two at a time, and print a line for each; the exit status."""
    todo = [block for path in paths for block in blocks(path)]
    failed, skipped = 0, sum(block.not_run is not None for block in todo)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for ok, text in pool.map(run, todo):
            print(text, flush=True)
            failed += not ok
    print(f"{len(todo)} blocks: {skipped} not run, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the code blocks of markdown files.")
    parser.add_argument("markdown", nargs="*", type=Path, default=[README], help="files, by default README.md")
    sys.exit(check(parser.parse_args().markdown))

"""A newcomer's first hour, by a machine: what the README alone says, in an empty folder, with worldsheet as installed.

    python tools/first_hour.py [--python PYTHON]

The picture is there; every program of the README runs; the convolutional network gets the same weights with the
changed line as with `loss.backward()`; a relaxation is watched and two rules are compared; the command trains, compares
and makes a page on which a single epoch has markers; mistakes end with the statuses and messages that a person needs.
Prints what each step took. Exit status 1, and what went wrong, if anything does.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from run_blocks import README, blocks

LONGEST = 300.0  # seconds that any step may take
CHANGED = "loss = ws.backward(chain, images, labels)"
UNCHANGED = "loss = chain.loss(model(images), labels); loss.backward()"
CHECKSUM = "\nprint('weights', [float(p.detach().double().abs().sum()) for p in model.parameters()])\n"
NETWORK = ["--train-size", "200", "--epochs", "1", "--depth", "4", "--width", "16"]
MISTYPED: Mapping[str, str] = {
    "train --dynamics pc": "worldsheet compare --dynamics pc",
    "train --data-dir /nope --data mnist": "--data-dir /nope does not exist",
    "compare --dynamics pcc": "did you mean 'pc'?",
    "stream --csv /nope.csv": "--csv /nope.csv does not exist",
    "report /nope": "there is no folder /nope",
    "control nope": "no problem is called 'nope'",
}
MISTAKES: Mapping[str, str] = {
    "ws.backward(model, x, y)": "chain = ws.Chain(model, loss)",
    "ws.Chain(model, nn.CrossEntropyLoss)": "write CrossEntropyLoss()",
    "ws.backward(chain, [x, y], None)": "x, target = batch",
    "ws.backward(chain, x.double(), y)": "x.float()",
    "ws.backward(chain, x.reshape(8, 1, 4, 5), y)": "put nn.Flatten() before it",
    "ws.backward(chain, x, y + 3)": "number the classes from 0",
    "ws.relax(chain, x, y, stop=20)": "use ws.Stop(max_ticks=20)",
    "ws.backward(chain, x[:0], y[:0])": "leave the empty batch out",
}
SETTING = """
import torch, worldsheet as ws
from torch import nn
model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 3))
chain, x, y = ws.Chain(model, nn.CrossEntropyLoss()), torch.randn(8, 20), torch.randint(0, 3, (8,))
"""


class FirstHourError(Exception):
    """Something that a newcomer would stumble over."""


@dataclass(frozen=True)
class Newcomer:
    """Who has an interpreter with worldsheet, an empty folder and the README, and nothing else.

    Attributes:
        python: the interpreter.
        folder: where everything is done.
    """

    python: str
    folder: Path

    def runs(self, *words: str, status: int = 0) -> str:
        """Run the interpreter; what it printed, errors if it is to fail."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        command = [self.python, *words]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST
        )
        if done.returncode != status:
            raise FirstHourError(f"status {done.returncode}, not {status}: {words}\n{done.stdout}{done.stderr}")
        return done.stderr if status else done.stdout

    def types(self, line: str, status: int = 0) -> str:
        """Run a command line of worldsheet."""
        return self.runs("-m", "worldsheet", *line.split(), status=status)


def has(text: str, *parts: str) -> None:
    """Refuse a text that lacks a part."""
    if missing := [part for part in parts if part not in text]:
        raise FirstHourError(f"{missing} not in\n{text}")


def sees_the_picture(newcomer: Newcomer) -> None:
    """The README begins with one, and the file is there."""
    found = re.search(r"!\[[^]]+\]\((\S+\.png)\)", README.read_text(encoding="utf-8")[:500])
    if found is None or (README.parent / found[1]).read_bytes()[:4] != b"\x89PNG":
        raise FirstHourError("the README does not begin with a picture")


def runs_the_programs(newcomer: Newcomer) -> None:
    """Every Python block of the README."""
    for number, block in enumerate(block for block in blocks(README) if block.language == "python"):
        path = newcomer.folder / f"block{number}.py"
        path.write_text(block.source, encoding="utf-8")
        newcomer.runs(path.name)


def trains_with_one_changed_line(newcomer: Newcomer) -> None:
    """The convolutional network of the README, once as it stands and once by autograd: the same weights."""
    (source,) = [block.source for block in blocks(README) if "MaxPool2d" in block.source and CHANGED in block.source]
    seeded = source.replace("import worldsheet as ws\n", "import worldsheet as ws\ntorch.manual_seed(0)\n", 1)
    ours = newcomer.runs("-c", seeded + CHECKSUM)
    autograd = newcomer.runs("-c", seeded.replace(CHANGED, UNCHANGED) + CHECKSUM)
    if ours.splitlines()[-1] != autograd.splitlines()[-1]:
        raise FirstHourError(f"other weights than by autograd:\n{ours}\n{autograd}")


def watches_and_compares(newcomer: Newcomer) -> None:
    """A relaxation tick by tick, and how far another rule is from backpropagation."""
    (source,) = [block.source for block in blocks(README) if "ws.PredictiveCoding(), stop" in block.source]
    said = newcomer.runs("-c", source)
    has(said, "converged after", "0.weight", "cosine", "rel. error")
    worst = float(said.splitlines()[-1])
    if not -1.0 <= worst < 1.0:  # not backpropagation's
        raise FirstHourError(f"the worst cosine of predictive coding is {worst}")


def uses_the_command(newcomer: Newcomer) -> None:
    """Train, compare, and look at the page."""
    said = newcomer.types(" ".join(["train --run runs/digits", *NETWORK]))
    has(said, "relaxation", "autograd", "final weights are equal to the last bit", "ms per", "runs/digits/learning.png")
    said = newcomer.types(" ".join(["compare --dynamics dyadic,pc --seeds 2 --run runs/rivals", *NETWORK]))
    has(said, "difference", "to backprop", "× backprop", "cosine with backprop's gradient, by layer")
    newcomer.types("report runs/digits runs/rivals --out report.html")
    page = (newcomer.folder / "report.html").read_text(encoding="utf-8")
    plots = re.findall(r'<script type="application/json" id="learning-\d+-data">(.*?)</script>', page)
    traces = [trace for plot in plots for trace in json.loads(plot)["data"]]
    if not traces or any("markers" not in trace["mode"] for trace in traces):
        raise FirstHourError("a single epoch cannot be seen on the page")
    if "<script src" in page or 'rel="stylesheet"' in page:
        raise FirstHourError("the page loads something from elsewhere")


def mistypes(newcomer: Newcomer) -> None:
    """Each mistake on the command line ends with status 2 and three parts."""
    for line, told in MISTYPED.items():
        said = newcomer.types(line, status=2)
        has(said, told, "error: ", "\n  accepted: ", "\n  remedy: ")
        if "Traceback" in said:
            raise FirstHourError(f"a traceback for {line}\n{said}")


def makes_mistakes(newcomer: Newcomer) -> None:
    """Each mistake in a program ends with the remedy for its cause, in the last lines of what is seen."""
    for call, told in MISTAKES.items():
        said = newcomer.runs("-c", SETTING + call, status=1)
        has(said[said.rindex("worldsheet.") :], told, "Error: ")


STEPS: tuple[Callable[[Newcomer], None], ...] = (
    sees_the_picture,
    runs_the_programs,
    trains_with_one_changed_line,
    watches_and_compares,
    uses_the_command,
    mistypes,
    makes_mistakes,
)


def walk(python: str, folder: Path) -> Mapping[str, float]:
    """All steps; seconds by step.

    Raises:
        FirstHourError: something that a newcomer would stumble over.
    """
    took = {}
    for step in STEPS:
        start = time.monotonic()
        step(Newcomer(python, folder))
        took[step.__name__.replace("_", " ")] = time.monotonic() - start
    return took


def main() -> None:
    """Walk in an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter in which worldsheet[app] is installed")
    with tempfile.TemporaryDirectory() as name:
        try:
            took = walk(parser.parse_args().python, Path(name))
        except FirstHourError as error:
            sys.exit(f"FAILED: {error}")
    for step, seconds in took.items():
        print(f"{step}: {seconds:.1f} s")


if __name__ == "__main__":
    main()

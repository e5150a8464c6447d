"""Other libraries of predictive coding, each in a Python of its own.

A rival's script is started with the widths of a tanh network, the number of inference steps T, the batch size and the
number of cores it may use. It makes its network, compiles, and writes the seconds that took; from then on it answers
each line with one training step: forward pass, T steps of inference in float32 from there, squared error at the output,
gradient of the weights, one step of SGD. What is timed is the question and the answer, so that a pipe's tenth of a
millisecond is on the rival's side, and nothing of its compilation.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from worldsheet.core.errors import InputError

SCRIPTS: Mapping[str, Path] = {name: Path(__file__).with_name(f"rival_{name}.py") for name in ("pcx", "fabricpc")}
"""Which rivals there are."""


class Task(NamedTuple):
    """What a rival is asked to do."""

    widths: tuple[int, ...]
    ticks: int
    batch: int
    threads: int

    @property
    def words(self) -> list[str]:
        """As arguments of a script."""
        return [",".join(str(width) for width in self.widths), *(str(number) for number in self[1:])]


@final
@dataclass(frozen=True)
class ExternalMethod:
    """A running script that answers when it is asked, with one training step of a network.

    Attributes:
        name: the library.
        compiling: seconds before it could answer.
    """

    name: str
    compiling: float
    _process: "subprocess.Popen[str]"

    def step(self) -> None:
        """One training step.

        Raises:
            InputError: the script has ended.
        """
        _number(self.name, self.ask(""))

    def ask(self, question: str) -> str:
        """A line for a line.

        Raises:
            InputError: the script has no pipes.
        """
        questions, answers = self._process.stdin, self._process.stdout
        if questions is None or answers is None:
            raise _no_rival(self.name, "it has no pipes")
        questions.write(question + "\n")
        questions.flush()
        return answers.readline()


@contextmanager
def running(
    pythons: Mapping[str, Path], words: Sequence[str], scripts: Mapping[str, Path] = SCRIPTS
) -> Iterator[Sequence[ExternalMethod]]:
    """Start the rivals for which there is a Python, and end them afterwards.

    Raises:
        InputError: a Python that cannot run the rival's script.
    """
    with ExitStack() as stack:
        yield [
            stack.enter_context(_started(name, [str(python), str(scripts[name]), *words]))
            for name, python in pythons.items()
        ]


@contextmanager
def _started(name: str, command: Sequence[str]) -> Iterator[ExternalMethod]:
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise _no_rival(name, str(error)) from error
    with process:
        try:
            yield ExternalMethod(name, _number(name, process.stdout.readline() if process.stdout else ""), process)
        finally:
            process.kill()


def _number(name: str, line: str) -> float:
    try:
        return float(line)
    except ValueError as error:
        raise _no_rival(name, f"it answered {line!r}") from error


def _no_rival(name: str, reason: str) -> InputError:
    return InputError(
        f"--{name} cannot be measured: {reason}",
        f"a Python in whose environment {name} can be imported",
        f"make one with `python -m venv DIR && DIR/bin/pip install {name}`, or leave --{name} out",
    )

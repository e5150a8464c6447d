"""The names on the command line are those of the tables behind them, and nothing heavy is imported to show them."""

import subprocess
import sys

import pytest

from worldsheet_lab import names
from worldsheet_lab.contest.rivals import BACKPROP, LEARNING_RULES
from worldsheet_lab.control.problems import KNOWN
from worldsheet_lab.data import NAMES
from worldsheet_lab.networks import ACTIVATIONS, ARCHITECTURES
from worldsheet_lab.recipes import DTYPES, FIELDS, OPTIMIZERS, SCHEDULES, recipe_for
from worldsheet_lab.signals import SIGNALS
from worldsheet_lab.stream_command import SIGNS

TABLES = {
    "DATA_SETS": NAMES,
    "ARCHITECTURES": ARCHITECTURES,
    "ACTIVATIONS": ACTIVATIONS,
    "OPTIMIZERS": OPTIMIZERS,
    "SCHEDULES": SCHEDULES,
    "DTYPES": DTYPES,
    "RULES": [name for name in LEARNING_RULES if name != BACKPROP],
    "SIGNALS": SIGNALS,
    "SIGNS": SIGNS,
    "PROBLEMS": KNOWN,
}


@pytest.mark.parametrize("name", TABLES)
def test_names_are_those_of_the_table(name: str) -> None:
    assert getattr(names, name) == tuple(TABLES[name])


def test_the_defaults_that_help_shows_are_those_of_the_digits() -> None:
    assert tuple(names.DIGITS) == FIELDS
    assert vars(recipe_for("digits")) == names.DIGITS


@pytest.mark.parametrize(
    "words",
    [["--version"], ["--help"], *[[name, "--help"] for name in ("train", "compare", "stream", "control", "report")]],
)
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    heavy = ["torch", "worldsheet", "numpy", "matplotlib", "plotly", "sklearn", "scipy"]
    code = (
        "import sys; from worldsheet_lab.__main__ import main\n"
        f"sys.argv = ['worldsheet', *{words!r}]\n"
        "try: main()\n"
        f"finally: print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout

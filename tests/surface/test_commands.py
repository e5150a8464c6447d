"""Every command helps, speaks to scripts, and knows what it does not know."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.command import bench
from experiments.harness.command import experiments
from worldsheet_lab.cli import app

MISTYPED = {
    "train --data digit": "digits",
    "train --optimizer adan": "adam",
    "compare --dynamics dyadik": "dyadic",
    "control pendulun": "pendulum",
    "stream --signal sins": "sine",
    "trian": "train",
}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, child in command.commands.items():
        yield from leaves(child, (*path, name))


BENCH, EXPERIMENTS = (typer.main.get_command(each) for each in (bench, experiments))
COMMANDS = {
    **dict(leaves(typer.main.get_command(app), ("worldsheet",))),
    **dict(leaves(BENCH, ("python", "-m", "benchmarks"))),
    **dict(leaves(EXPERIMENTS, ("python", "-m", "experiments"))),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_an_example_of_itself_and_speaks_json(name: str) -> None:
    command = COMMANDS[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options
    assert name in (command.epilog or "")
    assert command.help
    undocumented = [p.name for p in command.params if not getattr(p, "help", None)]
    assert undocumented == []


@pytest.mark.parametrize("line", MISTYPED)
def test_an_unknown_name_lists_the_known(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 2
    assert MISTYPED[line] in done.output


@pytest.mark.parametrize(
    ("group", "line", "known"), [(experiments, "run C77", "c13_heat_map"), (bench, "dynamcs", "dynamics")]
)
def test_an_unknown_name_outside_the_library_lists_the_known(
    group: Any, line: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(group, line.split())
    assert done.exit_code == 2
    assert known in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_commands(shell: str) -> None:
    environment = {"_WORLDSHEET_COMPLETE": f"complete_{shell}", "COMP_WORDS": "worldsheet comp", "COMP_CWORD": "1"}
    environment |= {"_TYPER_COMPLETE_ARGS": "worldsheet comp", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = CliRunner().invoke(app, [], env=environment, prog_name="worldsheet")
    assert "compare" in done.output
    assert "control" not in done.output

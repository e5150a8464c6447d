"""A run folder of every kind, small, made by the commands themselves where that takes seconds."""

import json
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner

from worldsheet.control import History, solve
from worldsheet.dynamics import Riccati, Wave
from worldsheet_lab.cli import app
from worldsheet_lab.control import saved
from worldsheet_lab.control.problems import KNOWN
from worldsheet_lab.recipes import recipe_for
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.staged.setup import Setup

NETWORK = ["--train-size", "96", "--test-size", "40", "--depth", "3", "--width", "10", "--batch-size", "32"]
COMMANDS: Mapping[str, list[str]] = {
    "zero": ["train", *NETWORK, "--epochs", "2", "--compare-every", "3"],
    "one": ["train", *NETWORK, "--epochs", "2", "--compare-every", "0", "--seed", "1"],
    "slow": ["train", *NETWORK, "--epochs", "1", "--compare-every", "2", "--rate", "0.9"],
    "rivals": ["compare", *NETWORK, "--dynamics", "dyadic,wave,pc", "--seeds", "3", "--epochs", "2", "--ticks", "5"],
}


def command(*words: str) -> None:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output


def make_all(place: Path) -> dict[str, Path]:
    """The folders by name; those of stages are written as their processes would."""
    for name, words in COMMANDS.items():
        command(*words, "--run", str(place / name))
    made = {name: place / name for name in COMMANDS}
    picture, signal = str(place / "stream.png"), place / "signal"
    command("stream", "--seconds", "1.2", "--dt", "0.004", "--figure", picture, "--run", str(signal))
    return {**made, "mass": controlled(place / "mass"), "signal": signal, "staged": staged(place / "staged")}


def controlled(place: Path) -> Path:
    """A swing-up and a short kick, without the command's pictures."""
    known, folder = KNOWN["pendulum"], RunFolder.at(place)
    posed, search, waves = known.problem(), History(), History()
    solution = solve(posed, Wave(impedance=Riccati()), known.guess(posed), 1e-8, history=search)
    solve(posed.at(posed.initial_state + 0.05), Wave(impedance=0.3, speed=0.5), solution, 1e-12, 30, waves)
    saved.save(folder, known, solution, search, waves)
    result = {"method": "matched", "cost": float(solution.cost), "ticks": solution.outcome.ticks, "status": "converged"}
    folder.write("result.json", json.dumps(result).encode())
    return place


ACTIONS = {
    0: [("F0", 10.0, 10.1), ("F1", 10.1, 10.2), ("B0", 10.5, 10.6), ("U0", 10.6, 10.7)],
    1: [("F0", 10.15, 10.25), ("B0", 10.25, 10.4), ("U0", 10.4, 10.5)],
}


def staged(place: Path) -> Path:
    recipe = recipe_for("digits", {"depth": 4, "width": 8, "dropout": 0.0})
    folder = RunFolder.create(recipe, place)
    folder.write("stages.json", Setup(recipe, 2, cuts=(0, 2, 4)).to_json().encode())
    for stage, actions in ACTIONS.items():
        folder.write(f"timeline-{stage}.json", json.dumps(actions).encode())
    for number in (1, 2):
        folder.append(
            {"kind": "segment", "segment": number, "epoch": number, "loss": 1 / number, "samples_per_s": 50.0}
        )
        folder.append({"kind": "epoch", "epoch": number, "test_accuracy": 0.4 * number})
    result = {"status": "finished", "stages": 2, "cuts": [0, 2, 4], "test_accuracy": [0.4, 0.8], "samples_per_s": 50.0}
    folder.write("result.json", json.dumps(result).encode())
    return place

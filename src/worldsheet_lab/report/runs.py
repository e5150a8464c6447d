"""The kinds of runs, and which of them a folder holds."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet_lab.compare_command import SHEET as RIVALS_SHEET
from worldsheet_lab.contest.contest import CONTEST, RuleComparison
from worldsheet_lab.control import saved as control
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.plots_stages import Note
from worldsheet_lab.recipes import Recipe
from worldsheet_lab.report.run import Run, torn
from worldsheet_lab.run_folder import CONFIG, Row, RunFolder
from worldsheet_lab.running import RECORD
from worldsheet_lab.sheets import Sheet
from worldsheet_lab.staged.setup import Setup
from worldsheet_lab.staged.worker import SETUP, TIMELINE
from worldsheet_lab.stream_folder import ABOUT as STREAM_ABOUT
from worldsheet_lab.stream_folder import TRACE


@final
class TrainRun(Run):
    """A network and its twin by backprop."""

    kind = "worldsheet train"

    @property
    def recipe(self) -> Recipe:
        """What was trained."""
        return self.folder.recipe()

    @property
    def family(self) -> Hashable:
        """Its recipe but for the seed."""
        return alike(self.recipe)

    @property
    def rows(self) -> list[Row]:
        """Its metrics."""
        return self.folder.rows()

    @property
    def about(self) -> str:
        """What was run, in a line."""
        return self.recipe.about

    @property
    def found(self) -> Mapping[str, str]:
        """Its main figures."""
        if (result := self.result) is None:
            return {}
        shown = {f"accuracy, {n}": f"{row['test_accuracy']:.2%}" for n, row in result["contenders"].items()}
        return {**shown, "time of a step / autograd's": f"{result['time_ratio']:.2f}"}

    @property
    def sheets(self) -> Mapping[str, Sheet]:
        """The recorded relaxations."""
        present = (self.folder.path / RECORD).is_file()
        return {f"dyadic, rate {self.recipe.rate:g}": self.sheet(RECORD)} if present else {}


@final
class StagedRun(Run):
    """A network trained in stages, a process each."""

    kind = "worldsheet train --stages"

    @property
    def setup(self) -> Setup:
        """How it was cut."""
        return Setup.from_json(self.folder.read(SETUP).decode(errors="replace"))

    @property
    def rows(self) -> list[Row]:
        """Its metrics."""
        return self.folder.rows()

    @property
    def timelines(self) -> Mapping[int, list[Note]]:
        """By stage, the actions of its last segment."""
        found = {}
        for stage in range(self.setup.stages):
            path = self.folder.path / f"{TIMELINE}-{stage}.json"
            if path.is_file():
                try:
                    rows = json.loads(self.folder.read(path.name))
                    found[stage] = [(str(action), float(begin), float(end)) for action, begin, end in rows]
                except (ValueError, TypeError) as error:
                    raise torn(path, str(error), "a list of actions with their begin and end") from error
        return found

    @property
    def about(self) -> str:
        """What was run, in a line."""
        setup = self.setup
        order = "locked" if setup.locked else f"unlocked, {setup.weights} weights"
        return f"{setup.recipe.about}; {setup.stages} stages, {setup.packets_per_update} packets, {order}"

    @property
    def found(self) -> Mapping[str, str]:
        """Its main figures."""
        if (result := self.result) is None:
            return {}
        if "validation_loss" in result:
            loss, speed = result["validation_loss"][-1], result["tokens_per_s"]
            return {"validation loss": f"{loss:.4f} nats per character", "throughput": f"{speed:,.0f} tokens/s"}
        return {
            "accuracy": f"{result['test_accuracy'][-1]:.2%}",
            "throughput": f"{result['samples_per_s']:.0f} samples/s",
        }


@final
class CompareRun(Run):
    """Several dynamics and backprop on one network over several seeds."""

    kind = "worldsheet compare"

    @property
    def contest(self) -> RuleComparison:
        """What was compared."""
        return RuleComparison.load(self.folder)

    @property
    def about(self) -> str:
        """What was run, in a line."""
        contest = self.contest
        return f"{contest.recipe.about}; {', '.join(contest.names)}; {contest.seeds} seeds"

    @property
    def found(self) -> Mapping[str, str]:
        """Its main figures."""
        if (result := self.result) is None:
            return {}
        return {f"accuracy, {name}": f"{row['accuracy']:.2%}" for name, row in result["dynamics"].items()}

    @property
    def sheets(self) -> Mapping[str, Sheet]:
        """The recorded relaxations."""
        files = {name: RIVALS_SHEET.format(name) for name in self.contest.names}
        return {name: self.sheet(file) for name, file in files.items() if (self.folder.path / file).is_file()}


@final
class ControlRun(Run):
    """An optimal control problem solved by waves."""

    kind = "worldsheet control"

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Of the states and the controls."""
        plain = self.read_json(control.ABOUT)
        return list(plain["states"]), list(plain["controls"])

    @property
    def goal(self) -> list[float | None]:
        """What each state is to be at the end, None where that is free; empty where nothing is told."""
        return list(self.read_json(control.ABOUT).get("goal", ()))

    @property
    def time(self) -> str:
        """What the axis of time is called."""
        return str(self.read_json(control.ABOUT).get("time", "time"))

    @property
    def trajectory(self) -> dict[str, Tensor]:
        """Of the solution: times, states, costates, controls."""
        return self.tensors(control.TRAJECTORY, ("times", "states", "costates", "controls"))

    @property
    def search(self) -> dict[str, Tensor]:
        """The same fields and the norms of the residuals by tick."""
        return self.tensors(control.SEARCH, ("ticks", "states", "costates", "controls", "state_residuals"))

    @property
    def waves(self) -> dict[str, Tensor] | None:
        """The residuals of a kicked solution by tick; None where it was not kicked."""
        if not (self.folder.path / control.WAVES).is_file():
            return None
        return self.tensors(control.WAVES, ("ticks", "state_residuals", "costate_residuals"))

    @property
    def about(self) -> str:
        """What was run, in a line."""
        result = self.result or {}
        title = str(self.read_json(control.ABOUT)["title"])
        return f"{title}, method {result['method']}" if "method" in result else title

    @property
    def found(self) -> Mapping[str, str]:
        """Its main figures."""
        result = self.result
        if result is None or result["cost"] is None:
            return {}
        return {"cost": f"{result['cost']:.6g}", "ticks": str(result["ticks"]), "outcome": str(result["status"])}

    @property
    def _marker(self) -> str:
        return control.ABOUT


@final
class StreamRun(Run):
    """Neurons that tracked a signal while it happened."""

    kind = "worldsheet stream"

    @property
    def trace(self) -> dict[str, Tensor]:
        """Its curves over time."""
        return self.tensors(TRACE, ("times", "wanted", "outputs", "hamiltonians", "lagrangians", "costate_norms"))

    @property
    def about(self) -> str:
        """What was run, in a line."""
        return str(self.read_json(STREAM_ABOUT)["title"])

    @property
    def found(self) -> Mapping[str, str]:
        """Its main figures."""
        error = (self.result or {}).get("error_second_half")
        return {} if error is None else {"RMS error, second half": f"{error:.4f}"}

    @property
    def _marker(self) -> str:
        return STREAM_ABOUT


KINDS: Mapping[str, Callable[[RunFolder, str], Run]] = {
    SETUP: StagedRun,
    CONTEST: CompareRun,
    control.ABOUT: ControlRun,
    STREAM_ABOUT: StreamRun,
    CONFIG: TrainRun,
}
"""By the file that tells them; the first one present does."""

_COMMANDS = "worldsheet train, train --stages, compare, control, or stream --run"


def alike(recipe: Recipe) -> Recipe:
    """The same for recipes that differ in their seed, and in how often gradients were looked at."""
    return replace(recipe, seed=0, compare_every=0)


def runs_at(paths: Sequence[Path]) -> list[Run]:
    """The runs of some folders, called by their folders' names, or their paths where two have the same name.

    Raises:
        InputError: no folder, or one twice.
        RunFolderError: a folder that holds no run.
    """
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        raise InputError(
            "a report needs one run folder or several different ones, "
            f"got {len(paths)}, of which {len({path.resolve() for path in paths})} differ",
            f"folders that {_COMMANDS} wrote, each once",
            "write for example worldsheet report runs/one runs/other",
        )
    names = [path.resolve().name for path in paths]
    labels = [str(path) if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)]
    return [_run_at(path, label) for path, label in zip(paths, labels, strict=True)]


def _run_at(path: Path, label: str) -> Run:
    for marker, kind in KINDS.items():
        if (path / marker).is_file():
            return kind(RunFolder(path), label)
    raise RunFolderError(
        f"there is none of {', '.join(KINDS)} in {path}" if path.is_dir() else f"there is no folder {path}",
        f"a folder that {_COMMANDS} wrote",
        "name the folder that the run printed",
    )

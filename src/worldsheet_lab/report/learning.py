"""Learning curves of all runs over each other, runs that differ in their seed only as one colour."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from math import nan
from typing import Any, TypeAlias, final

import numpy as np

from worldsheet_lab.recipes import Recipe
from worldsheet_lab.report.panel import Drawing, Figure, Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.runs import CompareRun, StagedRun, TrainRun, alike
from worldsheet_lab.report.style import COLOURS, curve, figure, log_axis, share_axis, whole_axis, with_legend
from worldsheet_lab.run_folder import Row

Key: TypeAlias = tuple[str, Recipe, str]
"""What makes curves comparable: the rule, the recipe at seed 0, and how it was carried out."""

Groups: TypeAlias = Mapping[Key, Sequence["Learned"]]
"""Networks that differ in their seed only."""

_TASK = ("data", "train_size", "test_size", "architecture", "activation", "depth", "width")
"""What of a recipe makes a figure of its own."""
_TOLD = ("rate", "schedule", "optimizer", "lr", "batch_size", "dropout", "epochs", "dtype", "device", "threads")
"""What else is named where it must tell curves apart, first what tells most."""
_PARTS = (
    ("accuracy", "test images classified correctly"),
    ("test_loss", "test loss (nats per image)"),
    ("train_loss", "training loss (nats per image)"),
)


@final
@dataclass(frozen=True)
class Learned:
    """One network's curves over the epochs; NaN for what overflowed or is not known."""

    key: Key
    seed: int
    accuracy: list[float]
    train_loss: list[float]
    test_loss: list[float]


def panels(runs: Sequence[Run]) -> Iterator[Panel]:
    """Accuracy and losses by epoch, a row for each network and data set."""
    tasks: dict[str, dict[Key, list[Learned]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for learned in _learned(run):
            tasks[_task(learned.key[1])][learned.key].append(learned)
    drawings = [
        Drawing(f"{task}: {title}", made, with_legend(made))
        for task, groups in tasks.items()
        for part, title in _PARTS
        if len((made := _curves(groups, part)).data)
    ]
    words = (
        "Thin: one seed; thick: the mean over seeds where there are several; broad and pale: backprop, under those "
        "that coincide with it."
    )
    if drawings:
        yield Panel("learning", "Learning curves", words, tuple(drawings))


def _task(recipe: Recipe) -> str:
    plain = asdict(recipe)
    some = f", {plain['train_size']} images" if plain["train_size"] else ""
    return f"{plain['data']}{some}, {plain['architecture']} {plain['activation']} {plain['depth']} × {plain['width']}"


def _learned(run: Run) -> Iterator[Learned]:
    if isinstance(run, TrainRun):
        recipe, rows = run.recipe, [row for row in run.rows if row["kind"] == "epoch"]
        for name in dict.fromkeys(row["contender"] for row in rows):
            own = [row for row in rows if row["contender"] == name]
            columns = (_column(own, part) for part in ("test_accuracy", "train_loss", "test_loss"))
            rule = "autograd" if name == "autograd" else f"{name} (dyadic)"
            plain = alike(recipe)
            if name == "autograd":  # which has no rate
                plain = replace(plain, rate=1.0, schedule="wavefront")
            yield Learned((rule, plain, ""), recipe.seed, *columns)
    if isinstance(run, StagedRun) and isinstance(trained := run.setup.recipe, Recipe):
        setup, rows = run.setup, [row for row in run.rows if row["kind"] == "epoch"]
        how = f"{setup.stages} stages, {'locked' if setup.locked else setup.weights}, M = {setup.packets_per_update}"
        key = ("pipeline", alike(trained), how)
        yield Learned(key, trained.seed, _column(rows, "test_accuracy"), [], [])
    if isinstance(run, CompareRun) and (result := run.result):
        recipe = alike(run.contest.recipe)
        for name, row in result["dynamics"].items():
            for seed, accuracy in zip(result["seeds"], row["curves"], strict=True):
                yield Learned((name, recipe, ""), seed, list(accuracy), [], [])


def _column(rows: Sequence[Row], part: str) -> list[float]:
    return [nan if row[part] is None else float(row[part]) for row in rows]


def _names(keys: Sequence[Key]) -> list[str]:
    """The rule, and of the recipe as much as tells its curves apart."""
    names = [", ".join(filter(None, [rule, how])) for rule, _, how in keys]
    for field in _TOLD:
        values = [getattr(recipe, field) for _, recipe, _ in keys]
        told = list(zip(names, values, strict=True))
        names = [
            f"{name}, {field} {value}" if names.count(name) > told.count((name, value)) else name
            for name, value in told
        ]
    return names


def _curves(groups: Groups, part: str) -> Figure:
    """One measure of all groups: backprop first, so that it lies under the others."""
    made, colours = figure("epoch", "", showlegend=True), cycle(COLOURS)
    keys = sorted(groups, key=lambda key: not _is_backprop(key))
    for key, name in zip(keys, _names(keys), strict=True):
        members = {learned.seed: values for learned in groups[key] if (values := getattr(learned, part))}
        broad = {"width": 7, "opacity": 0.4} if _is_backprop(key) else {"width": 2.2}
        made.add_traces(_group(name, members, next(colours), broad))
    whole_axis(made, max([len(trace.x) for trace in made.data] or [1]))
    if part == "accuracy":
        share_axis(made)
    else:
        log_axis(made)
    return made


def _group(name: str, members: Mapping[int, Sequence[float]], colour: str, mean_style: Mapping[str, Any]) -> list[Any]:
    """A curve per seed and their mean; of one seed its curve alone, drawn as a mean."""
    if len(members) < 2:
        return [curve(_epochs(v), v, name, colour, mode="lines+markers", **mean_style) for v in members.values()]
    single = max(map(len, members.values())) == 1  # epoch, of which a line shows nothing
    more = {"legendgroup": name, "showlegend": False, "width": 1, "opacity": 0.5}
    more["mode"] = "markers" if single else "lines"
    thin = [curve(_epochs(v), v, f"{name}, seed {seed}", colour, **more) for seed, v in members.items()]
    length = min(map(len, members.values()))
    mean = np.mean([values[:length] for values in members.values()], axis=0).tolist()
    label = f"{name}, mean of {len(members)} seeds"
    return [*thin, curve(_epochs(mean), mean, label, colour, legendgroup=name, mode="lines+markers", **mean_style)]


def _epochs(values: Sequence[float]) -> list[int]:
    return list(range(1, len(values) + 1))


def _is_backprop(key: Key) -> bool:
    return key[0] in {"autograd", "backprop"}

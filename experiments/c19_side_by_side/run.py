"""Learning dynamics side by side: local rules against each other and against backprop, paired over seeds."""

from functools import partial
from pathlib import Path
from typing import Any

from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet_lab import plots
from worldsheet_lab.contest.cell import trained
from worldsheet_lab.contest.contest import RuleComparison, comparison_for
from worldsheet_lab.contest.report import result_of
from worldsheet_lab.contest.rivals import BACKPROP, LEARNING_RULES
from worldsheet_lab.data import load
from worldsheet_lab.running import threads

CONTESTS: dict[Size, dict[str, Any]] = {
    Size.SMALL: {"data": "digits", "depth": 4, "width": 32, "epochs": 5, "train_size": 800, "compare_every": 20},
    Size.FULL: {
        "data": "fashion-mnist",
        "depth": 6,
        "width": 64,
        "epochs": 1,
        "train_size": 12000,
        "compare_every": 40,
    },
}
SEEDS = 3


def contest_of(size: Size) -> RuleComparison:
    changes = dict(CONTESTS[size])
    names = ",".join(name for name in LEARNING_RULES if name != BACKPROP)
    return comparison_for(changes.pop("data"), names, SEEDS, None, changes)


def measure(size: Size, cells: Cells) -> Findings:
    contest = contest_of(size)
    data = load(contest.recipe.data).subset(contest.recipe.train_size, contest.recipe.test_size)
    found = {}
    with threads(1):
        for name, seed in contest.cells:
            train = partial(trained, contest.recipe_of(seed), data, contest.rival(name), lambda: None)
            found[name, seed] = cells.get(f"{name} seed {seed}", train)
    dynamics = result_of(contest, found)["dynamics"]
    figures: dict[str, float] = {}
    for name, row in dynamics.items():
        short = name.replace("-", "_")
        figures[f"{short}_accuracy"] = 100 * row["accuracy"]
        if name != BACKPROP:
            figures[f"{short}_difference"] = 100 * row["difference"]
            figures[f"{short}_half_width"] = 100 * row["half_width"]
            figures[f"{short}_smallest_cosine"] = row["smallest_cosine"]
            figures[f"{short}_time_ratio"] = row["time_ratio"] or float("nan")
    return Findings(figures=figures, tables={"dynamics": [{"name": name, **row} for name, row in dynamics.items()]})


def draw(record: Record, path: Path) -> None:
    rows = {row["name"]: row for row in record.tables["dynamics"]}
    path.write_bytes(plots.rivals(rows, f"{CONTESTS[record.size]['data']}: {SEEDS} seeds, equal starts and batches"))


if __name__ == "__main__":
    experiment(__file__, measure, draw)

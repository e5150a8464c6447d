"""The two contenders, and runs that are stopped and picked up again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worldsheet_lab.data import DataSet
from worldsheet_lab.recipes import recipe_for
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.training import Position, Training, Watcher

Start = Callable[..., Training]


class StopAfter(Watcher):
    """Ctrl-C, or worse, after so many steps."""

    def __init__(self, steps: int, error: type[BaseException]) -> None:
        self.steps, self.error = steps, error

    def on_step(self, training: Training) -> None:
        if training.done == self.steps:
            raise self.error

    def on_epoch(self, training: Training) -> None:
        pass


def again(folder: RunFolder, digits: DataSet) -> Training:
    recipe = folder.recipe()
    training = Training(recipe, digits.subset(recipe.train_size, recipe.test_size), folder)
    training.restore()
    return training


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds_per_step"} for row in rows]


def same_state(one: Training, other: Training) -> bool:
    pairs = zip(one.contenders, other.contenders, strict=True)
    return all(
        torch.equal(mine, theirs.model.state_dict()[name])
        for contender, theirs in pairs
        for name, mine in contender.model.state_dict().items()
    )


@pytest.mark.parametrize("steps", [1, 5, 7, 10, 14], ids=lambda steps: f"step{steps}")
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_stopped_run_ends_with_the_same_bits(
    start: Start, digits: DataSet, tmp_path: Path, steps: int, optimizer: str
) -> None:
    whole = start("whole", optimizer=optimizer)
    whole.run()
    first = start("parts", optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        first.run([StopAfter(steps, KeyboardInterrupt)])
    torch.manual_seed(steps)  # whatever else the process draws must not matter
    second = again(RunFolder.open(tmp_path / "parts"), digits)
    assert second.done == steps
    second.run()
    assert same_state(whole, second)
    assert timeless(RunFolder(tmp_path / "parts").rows()) == timeless(RunFolder(tmp_path / "whole").rows())


def test_stopped_three_times_and_with_batch_norm(start: Start, digits: DataSet, tmp_path: Path) -> None:
    network = {"architecture": "cnn", "width": 4, "activation": "relu"}
    whole = start("whole", **network)
    whole.run()
    training = start("parts", **network)
    for steps in (2, 3, 9):
        with pytest.raises(KeyboardInterrupt):
            training.run([StopAfter(steps, KeyboardInterrupt)])
        training = again(RunFolder.open(tmp_path / "parts"), digits)
    training.run()
    assert same_state(whole, training)


def test_a_run_that_died_goes_on_from_its_last_epoch(start: Start, digits: DataSet, tmp_path: Path) -> None:
    whole = start("whole")
    whole.run()
    with pytest.raises(MemoryError):
        start("parts").run([StopAfter(10, MemoryError)])
    folder = RunFolder.open(tmp_path / "parts")
    assert sum(row["kind"] == "gradients" for row in folder.rows()) == 4  # steps 0, 3, 6 and 9
    training = again(folder, digits)
    assert training.position == Position(1, 0)
    assert sum(row["kind"] == "gradients" for row in folder.rows()) == 3
    training.run()
    assert same_state(whole, training)
    assert timeless(folder.rows()) == timeless(RunFolder(tmp_path / "whole").rows())


def test_an_interrupt_within_a_step_leaves_the_last_good_checkpoint(
    start: Start, digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = start("parts")
    step = training.autograd.optimizer.step

    def torn(*arguments: Any) -> Any:
        if training.done == 8:  # the other contender may have moved already
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training.autograd.optimizer, "step", torn)
    with pytest.raises(KeyboardInterrupt):
        training.run()
    resumed = again(RunFolder.open(tmp_path / "parts"), digits)
    assert resumed.position == Position(1, 0)
    resumed.run()
    whole = start("whole")
    whole.run()
    assert same_state(whole, resumed)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "synchronous", "activation": "relu"},
        {"schedule": "sweep", "dropout": 0.5},
        {"rate": 0.95, "dropout": 0.5, "train_size": 96},
        {"architecture": "cnn", "width": 4, "schedule": "synchronous"},
        {"dtype": "float64", "optimizer": "sgd", "lr": 0.1},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()) or "default",
)
def test_both_contenders_end_in_the_same_place(start: Start, changes: dict[str, Any]) -> None:
    training = start(**changes)
    before = [parameter.clone() for parameter in training.autograd.model.parameters()]
    training.run()
    for mine, theirs, old in zip(
        training.relaxed.model.parameters(), training.autograd.model.parameters(), before, strict=True
    ):
        assert (theirs - old).norm() > 0.01 * theirs.norm() / len(before)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_digits_are_learnt(tmp_path: Path, digits: DataSet) -> None:
    recipe = recipe_for("digits", {"epochs": 5})
    training = Training(recipe, digits, RunFolder.create(recipe, tmp_path / "run"))
    training.run()
    for contender in training.contenders:
        assert contender.score is not None
        assert contender.score.accuracy > 0.93
    for mine, theirs in zip(training.relaxed.model.parameters(), training.autograd.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_looking_at_gradients_moves_nothing(start: Start) -> None:
    network = {"architecture": "cnn", "width": 4, "dropout": 0.3}
    watched, unwatched = start("watched", compare_every=1, **network), start("unwatched", compare_every=0, **network)
    watched.run()
    unwatched.run()
    assert same_state(watched, unwatched)


def test_metrics_have_a_line_per_epoch_and_contender_and_one_per_comparison(start: Start, tmp_path: Path) -> None:
    training = start(rate=0.95, depth=3)
    training.run()
    rows = RunFolder(tmp_path / "run").rows()
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [(row["epoch"], row["step"], row["contender"]) for row in epochs] == [
        (1, 7, "relaxation"),
        (1, 7, "autograd"),
        (2, 14, "relaxation"),
        (2, 14, "autograd"),
    ]
    score = training.relaxed.evaluate(*training._test)
    assert (epochs[2]["test_accuracy"], epochs[2]["test_loss"]) == (score.accuracy, score.loss)
    looks = [row for row in rows if row["kind"] == "gradients"]
    assert [row["step"] for row in looks] == [0, 3, 6, 9, 12]
    assert all(row["outcome"] == "converged" and row["ticks"] > 6 for row in looks)
    names = [name for name, _ in training.relaxed.model.named_parameters()]
    for row in looks:
        assert [fidelity["name"] for fidelity in row["parameters"]] == names
        assert all(
            1 - fidelity["cosine"] < 1e-9 and fidelity["relative_error"] < 1e-4 for fidelity in row["parameters"]
        )
        assert all(fidelity["snr"] is None or fidelity["snr"] > 1e8 for fidelity in row["parameters"])


def test_the_record_shows_both_fronts(start: Start) -> None:
    training = start(depth=6)
    training.run()
    sheet = training.sheet()
    assert sheet["ticks"].tolist() == list(range(13))
    for site in range(1, 7):
        states, costates = sheet["state_residuals"][:, site - 1], sheet["costate_residuals"][:, site - 1]
        assert states[site - 1] > 0.1  # the state front is about to arrive
        assert states[site:].max() == 0
        assert costates[12 - site] > 0  # the costate front is one tick further up
        assert costates[13 - site :].max() == 0

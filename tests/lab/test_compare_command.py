"""`worldsheet compare` as a user meets it, and the numbers behind its tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import worldsheet as ws
from worldsheet_lab import compare_command
from worldsheet_lab.cli import app
from worldsheet_lab.contest import cell
from worldsheet_lab.contest.cell import trained
from worldsheet_lab.contest.contest import comparison_for
from worldsheet_lab.contest.rivals import LearningRule
from worldsheet_lab.contest.statistics import paired
from worldsheet_lab.data import DataSet
from worldsheet_lab.recipes import recipe_for
from worldsheet_lab.run_folder import RunFolder

TINY = {"train_size": 96, "test_size": 60, "depth": 3, "width": 12, "epochs": 2, "batch_size": 32, "compare_every": 4}
OPTIONS = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def worldsheet(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *(str(argument) for argument in arguments)])


def test_it_compares_and_leaves_its_files(tmp_path: Path) -> None:
    done = worldsheet("--dynamics", "dyadic,pc", "--seeds", 3, *OPTIONS, "--run", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == [
        ".in-use",
        *("cells.json", "compare.json", "compare.png", "config.json", "metrics.jsonl", "result.json"),
        *("worldsheet-dyadic.safetensors", "worldsheet-pc.safetensors"),
    ]
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert [line.split(",")[0] for line in done.stderr.splitlines()[1:10]] == ["backprop", "dyadic", "pc"] * 3
    assert "95 % interval" in done.stdout
    assert "seeds 0–2" in done.stdout


def test_json_pairs_equal_starts_and_equal_batches(tmp_path: Path) -> None:
    done = worldsheet(
        "--dynamics", "dyadic,pc-alm", "--seeds", 2, "--seed", 5, *OPTIONS, "--run", tmp_path / "run", "--json"
    )
    result = json.loads(done.stdout)
    assert (result["seeds"], result["run"], result["status"]) == ([5, 6], str(tmp_path / "run"), "finished")
    assert list(result["dynamics"]) == ["backprop", "dyadic", "pc-alm"]
    backprop, dyadic, alm = result["dynamics"].values()
    # one epoch of the same batches from the same weights by exact gradients: the same network but for rounding
    assert dyadic["curves"] == backprop["curves"]
    assert (dyadic["difference"], dyadic["half_width"]) == (0.0, None)
    assert dyadic["smallest_cosine"] == pytest.approx(1, abs=1e-6)
    assert (dyadic["ticks"], dyadic["evaluations_per_layer"], dyadic["pulls_per_layer"]) == (6, 1, 1)
    assert alm["ticks"] == 6
    assert alm["smallest_cosine"] < 0.999
    assert set(alm["cosine"]) == {"0", "1", "2"}
    assert backprop["smallest_cosine"] is backprop["ticks"] is None
    assert backprop["time_ratio"] == 1
    assert "difference" in alm


def test_a_killed_comparison_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def counted(recipe: Any, data: Any, rival: LearningRule, on_step: Any, keep: Any) -> Any:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((rival.description, recipe.seed))
        return trained(recipe, data, rival, on_step, keep)

    arguments = ["--dynamics", "dyadic", "--seeds", 3, *OPTIONS, "--run", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(compare_command, "trained", counted)
        stopped = worldsheet(*arguments)
        assert stopped.exit_code == 130
        assert f"worldsheet compare --resume {tmp_path / 'run'}" in stopped.stderr
        calls.clear()
        resumed = worldsheet("--resume", tmp_path / "run", "--json")
        assert resumed.exit_code == 0, resumed.stderr
        assert len(calls) == 3  # of six cells three were known
    whole = worldsheet(*arguments[:-1], tmp_path / "whole", "--json")
    ours, theirs = (json.loads(done.stdout)["dynamics"] for done in (resumed, whole))
    assert [row["curves"] for row in ours.values()] == [row["curves"] for row in theirs.values()]
    again = worldsheet("--resume", tmp_path / "run", "--json")
    assert json.loads(again.stdout) == json.loads(resumed.stdout)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--dynamics", "dyadc"], ["no dynamics is called 'dyadc'", "pc-alm", "did you mean 'dyadic'?"]),
        (["--dynamics", "pc,pc"], ["--dynamics has pc twice"]),
        (["--seeds", "0"], ["--seeds must be at least 1, got 0", "3 or more for an interval"]),
        (["--ticks", "0"], ["--ticks must be at least 1, got 0"]),
        (["--data", "letters"], ["letters", "digits"]),
        (["--resume", "nowhere"], ["there is no folder nowhere"]),
        (["--resume", "nowhere", "--epochs", "3"], ["--resume cannot be used together with --epochs"]),
        (["--resume", "nowhere", "--seeds", "4"], ["--resume cannot be used together with --seeds"]),
    ],
)
def test_refusals(arguments: list[str], fragments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = worldsheet(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    for fragment in [*fragments, "accepted:", "remedy:"]:
        assert fragment in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_command_is_no_comparison(tmp_path: Path) -> None:
    recipe = recipe_for("digits", TINY)
    RunFolder.create(recipe, tmp_path / "train")
    done = worldsheet("--resume", tmp_path / "train")
    assert done.exit_code == 2
    assert "compare.json" in done.stderr


def test_help_has_an_example_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    text = worldsheet("--help").stdout
    example = next(line for line in text.splitlines() if "Example:" in line).partition("Example: worldsheet compare ")[
        2
    ]
    done = worldsheet(*example.split(), *OPTIONS, "--seeds", 1)
    assert done.exit_code == 0, done.stderr
    assert "1 seed: too few for an interval" in done.stdout
    assert (tmp_path / "runs" / "rivals" / "result.json").is_file()


def test_students_interval_of_paired_differences() -> None:
    # differences 1, 2, 3, 4: mean 2.5, s = sqrt(5/3), t(0.975, 3) = 3.182446
    mean, half = paired([2.0, 4.0, 6.0, 8.0], [1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(3.182446 * (5 / 3) ** 0.5 / 2, rel=1e-6)
    assert paired([1.0, 3.0], [0.0, 0.0]) == (2.0, None)


def test_a_budget_is_for_those_that_do_not_settle_at_once() -> None:
    contest = comparison_for("digits", "dyadic,pc,wave", 1, 7, {})
    stops = {name: contest.rival(name).stop.max_ticks for name in contest.names}
    assert stops == {"backprop": None, "dyadic": None, "pc": 7, "wave": 7}


def test_equilibrium_propagation_is_the_mean_of_two_nudges(digits: DataSet) -> None:
    model = recipe_for("digits", TINY).model(digits).eval()  # without dropout
    chain, x, target = ws.Chain(model, torch.nn.CrossEntropyLoss()), digits.train_images[:8], digits.train_labels[:8]
    rival = comparison_for("digits", "ep", 1, 5, {"depth": 3}).rival("ep").calibrated(chain, x, target)
    assert isinstance(rival.dynamics, ws.PredictiveCoding)
    wanted = ws.centred(chain, x, target, rival.dynamics, stop=ws.Stop(max_ticks=5))
    loss = rival.gradient(chain, x, target)
    solution = rival.solution(chain, x, target)
    assert solution is not None
    assert loss.equal(wanted.loss)
    assert solution.ticks == 10
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted.gradients()[name], rtol=1e-6, atol=1e-9)


def test_a_relaxation_that_diverges_ends_its_training_and_is_told(digits: DataSet) -> None:
    recipe = recipe_for("digits", {**TINY, "compare_every": 0})
    rival = LearningRule(ws.PredictiveCoding(1e6), ws.Stop(max_ticks=60))
    row = trained(recipe, digits.subset(96, 60), rival, lambda: None)
    assert row["status"].startswith("diverged: the relaxation cannot give gradients: it diverged after")
    assert len(row["accuracy"]) == 1
    assert row["seconds_per_step"] is None


def test_cosines_are_those_of_compare_and_looking_changes_nothing(
    digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, rival = digits.subset(96, 60), LearningRule(ws.PredictiveCoding(0.1), ws.Stop(max_ticks=6))
    seen: list[ws.diagnostics.Comparison] = []

    def watched(*arguments: Any) -> ws.diagnostics.Comparison:
        seen.append(ws.compare(*arguments))
        return seen[-1]

    monkeypatch.setattr(cell, "compare", watched)
    looked, blind = (
        trained(recipe_for("digits", {**TINY, "dropout": 0.2, "compare_every": every}), data, rival, lambda: None)
        for every in (2, 0)
    )
    assert len(seen) == 3
    assert looked["accuracy"] == blind["accuracy"]
    assert looked["loss"] == blind["loss"]
    assert looked["smallest_cosine"] == min(comparison.cosine for comparison in seen)
    layers = [min(row.cosine for row in c.rows if row.name.startswith("1.")) for c in seen]
    assert looked["cosine"]["1"] == pytest.approx(torch.tensor(layers).double().mean().item())

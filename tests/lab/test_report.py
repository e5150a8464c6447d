"""`worldsheet report`: what is drawn is what the runs have saved."""

import json
import shutil
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import worldsheet as ws
from run_folders import ACTIONS
from worldsheet_lab.cli import app
from worldsheet_lab.commands.report import EXAMPLE
from worldsheet_lab.control.problems import KNOWN
from worldsheet_lab.report.command import page_of
from worldsheet_lab.report.panel import Drawing, Panel
from worldsheet_lab.report.runs import runs_at
from worldsheet_lab.report.style import AT_REST, COLUMNS, MOMENTS
from worldsheet_lab.subsample import subsample

Folders = dict[str, Path]


def worldsheet(*words: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def panels(*paths: Path) -> dict[str, Panel]:
    return {panel.key: panel for panel in page_of(runs_at(paths)).panels}


def drawing(panel: Panel, begin: str) -> Drawing:
    (found,) = [drawing for drawing in panel.drawings if drawing.title.startswith(begin)]
    return found


def traces(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def rows(folder: Path, **wanted: object) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in every if all(row.get(name) == value for name, value in wanted.items())]


def test_heat_maps_hold_the_recorded_worldsheet(run_folders: Folders) -> None:
    saved = load_file(run_folders["zero"] / "worldsheet.safetensors")
    (panel,) = (p for key, p in panels(run_folders["zero"]).items() if key.startswith("worldsheet"))
    for begin, name in (("State residual", "state_residuals"), ("Costate's distance", "costate_distances")):
        heat = drawing(panel, begin).figure.data[0]
        values = saved[name].T.numpy()
        assert np.array_equal(heat.customdata, values)
        assert list(heat.x) == saved["ticks"].tolist()
        assert list(heat.y) == [1, 2, 3]
        moving = values > AT_REST * values.max()
        assert np.array_equal(np.isfinite(heat.z), moving)
        assert np.allclose(heat.z[moving], np.log10(values[moving]), atol=1e-5)
        assert heat.zmax == pytest.approx(log10(values.max()))


def test_the_film_shows_the_fields_of_every_tick(run_folders: Folders) -> None:
    saved = load_file(run_folders["zero"] / "worldsheet.safetensors")
    (panel,) = (p for key, p in panels(run_folders["zero"]).items() if key.startswith("worldsheet"))
    assert panel.film == tuple(f"tick {tick} of 6" for tick in range(7))
    for begin, name in (("States of one", "states"), ("Costates of one", "costates")):
        frames = drawing(panel, begin).figure.frames
        assert [frame.name for frame in frames] == [str(number) for number in range(7)]
        top = saved[name].nan_to_num(0).abs().amax(dim=(0, 2))
        for frame, field in zip(frames, saved[name][:, :, :10], strict=True):  # the widest site has ten units
            assert np.array_equal(frame.data[0].customdata, field.numpy(), equal_nan=True)
            shown = torch.as_tensor(frame.data[0].z).double()
            known = ~field.isnan()
            assert bool((shown[~known] == -128).all())  # a site that has no such unit has a colour of its own
            signs = torch.where(field.nan_to_num(0).abs() > 1.01e-3 * top[:, None], field, 0).sign()
            assert torch.equal(shown[known].sign(), signs[known])
        tallest = saved[name][-1][:, :10].nan_to_num(0).abs() == top[:, None]
        assert set(torch.as_tensor(frames[-1].data[0].z).abs()[tallest].tolist()) <= {127}
    shapes = [frame.layout.shapes for frame in drawing(panel, "State residual").figure.frames]
    assert [shape[0].x0 for shape in shapes] == list(range(7))  # the cursor
    assert [(shape[1].x0, shape[1].x1) for shape in shapes] == [(tick + 0.5, 6.5) for tick in range(7)]  # what is later


def test_energy_curves_are_sums_over_the_record(run_folders: Folders) -> None:
    saved = load_file(run_folders["slow"] / "worldsheet.safetensors")
    energy = panels(run_folders["slow"])["energy"]
    residuals = drawing(energy, "Residuals").figure
    assert [trace.line.dash for trace in residuals.data] == ["solid", "dash"]
    for trace, name in zip(residuals.data, ("state_residuals", "costate_residuals"), strict=True):
        assert np.allclose(trace.y, saved[name].norm(dim=1), rtol=1e-12)
    (prediction,) = drawing(energy, "Prediction energy").figure.data
    assert np.allclose(prediction.y, 0.5 * saved["state_residuals"].norm(dim=1) ** 2)
    (cost,) = drawing(energy, "Cost").figure.data
    assert np.array_equal(cost.y, saved["cost"])


def test_the_energy_of_a_wave_is_what_remains_and_what_was_absorbed(run_folders: Folders) -> None:
    saved = load_file(run_folders["rivals"] / "worldsheet-wave.safetensors")
    (panel,) = (p for key, p in panels(run_folders["rivals"]).items() if key.startswith("waves"))
    curves = traces(drawing(panel, "Energy left").figure)
    total = curves["energy of all sites"].y
    assert np.allclose(total, saved["energy"].sum(1))
    for name, per_tick in (("the cost", saved["at_output"]), ("matching", saved["absorbed"].sum(1))):
        so_far = [0.0]
        for value in per_tick.tolist():
            so_far.append(so_far[-1] + value)
        assert np.allclose(curves[f"absorbed by {name}"].y, so_far)
    reflected = drawing(panel, "Power reflected").figure
    assert np.array_equal(reflected.data[0].customdata, saved["reflected"].T)
    front = traces(reflected)["costates' front"]
    reached = saved["costate_front"] > 0
    assert np.array_equal(np.isfinite(front.y), reached)
    assert np.array_equal(np.asarray(front.y)[reached], 4 - saved["costate_front"][reached])
    bars = drawing(panel, "Reflected power of each").figure.data[0]
    assert np.allclose(bars.y, saved["reflected"].sum(0))


def test_learning_curves_are_the_metrics_and_their_mean_over_seeds(run_folders: Folders) -> None:
    panel = panels(run_folders["zero"], run_folders["one"], run_folders["slow"])["learning"]
    accuracy = traces(drawing(panel, "digits, 96 images, mlp tanh 3 × 10: test images").figure)
    by_seed = {
        seed: [row["test_accuracy"] for row in rows(run_folders[name], kind="epoch", contender="relaxation")]
        for seed, name in enumerate(("zero", "one"))
    }
    for seed, values in by_seed.items():
        assert list(accuracy[f"relaxation (dyadic), rate 1.0, seed {seed}"].y) == values
    mean = accuracy["relaxation (dyadic), rate 1.0, mean of 2 seeds"].y
    assert np.allclose(mean, [(a + b) / 2 for a, b in zip(*by_seed.values(), strict=True)])
    own = rows(run_folders["slow"], kind="epoch", contender="relaxation")
    loss = traces(drawing(panel, "digits, 96 images, mlp tanh 3 × 10: training loss").figure)
    assert list(loss["relaxation (dyadic), rate 0.9"].y) == [row["train_loss"] for row in own]
    first = next(iter(accuracy))
    assert first.startswith("autograd")  # which lies under the others


def test_fidelity_is_the_worst_parameter_of_each_layer(run_folders: Folders) -> None:
    panel = panels(run_folders["slow"], run_folders["rivals"])["fidelity"]
    curves = traces(drawing(panel, "1 − cosine with").figure)
    result = json.loads((run_folders["slow"] / "result.json").read_text())
    worst = [0.0] * 3
    for row in result["gradients"]:
        worst[int(row["name"][0])] = max(worst[int(row["name"][0])], row["one_minus_cosine"])
    assert np.allclose(curves[f"slow, worst of {result['comparisons']}"].y, worst, rtol=1e-12)
    rivals = json.loads((run_folders["rivals"] / "result.json").read_text())["dynamics"]
    assert np.allclose(curves["rivals: pc, mean"].y, [1 - c for c in rivals["pc"]["cosine"].values()])
    steps = drawing(panel, "slow: 1 − cosine").figure
    checks = rows(run_folders["slow"], kind="gradients")
    assert list(steps.data[0].x) == [row["step"] for row in checks]
    parts = [[1 - part["cosine"] for part in row["parameters"] if part["name"][0] == "0"] for row in checks]
    assert np.allclose(steps.data[0].y, [max(0.0, *part) for part in parts])
    arrival = panels(run_folders["rivals"])["arrival"]
    saved = load_file(run_folders["rivals"] / "worldsheet-pc.safetensors")
    heat = drawing(arrival, "pc").figure.data[0]
    assert np.array_equal(heat.z, saved["cosines"].T)
    assert list(heat.x) == saved["probes"].tolist()


def test_rivals_are_their_results(run_folders: Folders) -> None:
    panel = panels(run_folders["rivals"])["compare-rivals"]
    result = json.loads((run_folders["rivals"] / "result.json").read_text())["dynamics"]
    points = traces(drawing(panel, "Test images").figure)
    assert list(points["seed 2"].x) == ["backprop", "dyadic", "wave", "pc"]
    assert list(points["seed 2"].y) == [row["accuracies"][2] for row in result.values()]
    (difference,) = drawing(panel, "Difference").figure.data
    assert list(difference.y) == [100 * result[name]["difference"] for name in ("dyadic", "wave", "pc")]
    assert list(difference.error_y.array) == [100 * result[name]["half_width"] for name in ("dyadic", "wave", "pc")]
    (ratio,) = drawing(panel, "Time").figure.data
    assert list(ratio.y) == [row["time_ratio"] for row in result.values()]


def test_bars_of_stages_are_their_actions(run_folders: Folders) -> None:
    panel = panels(run_folders["staged"])["stages-staged"]
    bars = []
    for trace in drawing(panel, "What each stage").figure.data:
        bars += list(zip(trace.y, trace.customdata, trace.base, trace.x, strict=True))
    found = {(stage, action): (begin, begin + took) for stage, action, begin, took in bars}
    for stage, actions in ACTIONS.items():
        for action, begin, end in actions:
            assert found.pop((f"stage {stage}", action)) == pytest.approx((begin - 10, end - 10))
    assert not found
    (busy,) = drawing(panel, "Share").figure.data
    assert list(busy.y) == pytest.approx([0.4 / 0.7, 0.35 / 0.7])
    (loss,) = drawing(panel, "Training loss").figure.data
    assert list(loss.y) == [1.0, 0.5]


def test_control_is_the_solution_of_the_problem(run_folders: Folders) -> None:
    panel = panels(run_folders["mass"])["control-mass"]
    known = KNOWN["pendulum"]
    posed = known.problem()
    solution = ws.control.solve(posed, ws.Wave(impedance=ws.dynamics.Riccati()), known.guess(posed), 1e-8)
    states, costates = (traces(drawing(panel, part).figure) for part in ("States", "Costates"))
    for number, name in enumerate(known.states):
        assert np.array_equal(states[name].y, solution.states[:, number])
        assert np.array_equal(costates[f"λ of {name}"].y, solution.costates[:, number])
    controls = traces(drawing(panel, "Controls").figure)["torque (N m)"]
    assert list(controls.y) == [*solution.controls[:, 0].tolist(), float(solution.controls[-1, 0])]
    assert controls.line.shape == "hv"
    search = load_file(run_folders["mass"] / "search.safetensors")
    frames = drawing(panel, "States").figure.frames
    assert len(frames) == len(search["ticks"]) == len(panel.film)
    assert np.array_equal(frames[2].data[1].y, search["states"][2, :, 1])
    waves = load_file(run_folders["mass"] / "waves.safetensors")
    heat = drawing(panel, "Waves of the states").figure.data[0]
    assert np.array_equal(heat.customdata, waves["state_residuals"])
    assert list(heat.y) == waves["ticks"].tolist()
    assert np.allclose(heat.x, solution.times[1:])


def test_a_stream_is_its_trace(run_folders: Folders) -> None:
    panel = panels(run_folders["signal"])["stream-signal"]
    trace = load_file(run_folders["signal"] / "trace.safetensors")
    curves = traces(drawing(panel, "Signal").figure)
    assert np.array_equal(curves["output neuron"].y, trace["outputs"])
    times = np.asarray(curves["signal"].x)
    assert np.allclose(curves["signal"].y, 0.6 * np.sin((times + 0.004) / 2), atol=1e-6)
    (error,) = drawing(panel, "Error").figure.data
    late = times > times[-1] - 1.0 + 1e-9
    expected = np.sqrt(np.mean((trace["outputs"] - trace["wanted"]).numpy()[late] ** 2))
    assert error.y[-1] == pytest.approx(expected, rel=5e-3)
    energies = traces(drawing(panel, "Energies").figure)["Hamiltonian / φ"]
    assert np.allclose(0.1 * np.sinh(energies.y), trace["hamiltonians"])


def test_long_records_are_thinned_and_say_so(run_folders: Folders, tmp_path: Path) -> None:
    place = tmp_path / "long"
    shutil.copytree(run_folders["zero"], place)
    saved = load_file(place / "worldsheet.safetensors")
    many = {name: saved[name][[row % 7 for row in range(1201)]].contiguous() for name in saved if len(saved[name]) == 7}
    many |= {"ticks": torch.arange(1201), "moments": torch.arange(1201)}
    save_file({**saved, **many}, place / "worldsheet.safetensors")
    (panel,) = (p for key, p in panels(place).items() if key.startswith("worldsheet"))
    heat = drawing(panel, "State residual").figure.data[0]
    assert list(heat.x) == list(range(0, 1201, 4))
    assert len(heat.x) <= COLUMNS
    assert len(panel.film) == MOMENTS
    assert panel.film[-1] == "tick 1200 of 1200"
    assert "301 of 1201 ticks of the heat maps" in panel.words
    assert "60 of 1201 moments" in panel.words


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (6, 5), (1000, 7), (0, 3)])
def test_rows_are_even_and_end_at_the_ends(count: int, most: int) -> None:
    rows = subsample(count, most)
    assert len(rows) == min(count, most)
    assert rows[:1] + rows[-1:] == ([0, count - 1] if count else [])
    gaps = np.diff(rows)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_the_page_is_one_file_that_names_everything(run_folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "made" / "page.html"
    done = worldsheet(*run_folders.values(), "--out", out, "--title", "</script><b>a & b", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    text = out.read_text(encoding="utf-8")
    assert (told["report"], told["bytes"]) == (str(out), out.stat().st_size)
    assert [run["kind"].split()[1] for run in told["runs"]] == [
        *("train", "train", "train", "compare", "control", "stream", "train"),
    ]
    assert {panel["key"].split("-")[0] for panel in told["panels"]} == {
        *("worldsheet", "energy", "waves", "fidelity", "arrival", "learning", "compare", "stages", "control", "stream"),
    }
    assert text.count("plotly.js v") == 1
    assert "<title>&lt;/script&gt;&lt;b&gt;a &amp; b</title>" in text
    machine = json.loads((run_folders["zero"] / "config.json").read_text())["machine"]
    assert machine in text
    markup = text.replace(text[text.index("/**\n* plotly.js") : text.rindex('"use strict"')], "")
    assert "http" not in markup.replace("http-equiv", "")


def test_runs_of_one_name_are_told_apart(run_folders: Folders, tmp_path: Path) -> None:
    shutil.copytree(run_folders["zero"], tmp_path / "zero")
    labels = [run.label for run in runs_at([run_folders["zero"], tmp_path / "zero"])]
    assert labels == [str(run_folders["zero"]), str(tmp_path / "zero")]


def test_a_run_that_goes_on_shows_what_there_is(run_folders: Folders, tmp_path: Path) -> None:
    place = tmp_path / "going"
    shutil.copytree(run_folders["zero"], place)
    (place / "result.json").unlink()
    (place / "worldsheet.safetensors").unlink()
    assert list(panels(place)) == ["learning"]
    (place / "metrics.jsonl").write_text("")
    done = worldsheet(place, "--out", tmp_path / "r.html")
    assert done.exit_code == 2
    assert "nothing to show" in done.stderr


def test_a_folder_of_an_older_version_shows_its_residuals(run_folders: Folders, tmp_path: Path) -> None:
    place = tmp_path / "old"
    shutil.copytree(run_folders["zero"], place)
    config = json.loads((place / "config.json").read_text())
    old = {name: config[name] for name in ("worldsheet", "torch", "recipe")}
    (place / "config.json").write_text(json.dumps(old))
    saved = load_file(place / "worldsheet.safetensors")
    kept = {name: saved[name] for name in ("ticks", "state_residuals", "costate_residuals")}
    save_file(kept, place / "worldsheet.safetensors")
    (run,) = runs_at([place])
    assert (run.origin["command"], run.origin["torch"]) == ("not recorded", config["torch"])
    found = panels(place)
    (sheet,) = (panel for key, panel in found.items() if key.startswith("worldsheet"))
    assert [drawing.title.split()[0] for drawing in sheet.drawings] == ["State", "Costate"]
    assert [drawing.title.split()[0] for drawing in found["energy"].drawings] == ["Residuals", "Prediction"]
    assert "arrival" not in found


TORN: Mapping[str, tuple[str, str]] = {
    "zero": ("worldsheet.safetensors", "is damaged or belongs to another run"),
    "one": ("metrics.jsonl", "is damaged or belongs to another run"),
    "slow": ("result.json", "one JSON object"),
    "rivals": ("worldsheet-pc.safetensors", "is damaged or belongs to another run"),
    "staged": ("timeline-1.json", "a list of actions with their begin and end"),
    "mass": ("control.json", "one JSON object"),
    "signal": ("trace.safetensors", "is damaged or belongs to another run"),
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_file_is_named(name: str, run_folders: Folders, tmp_path: Path) -> None:
    file, fragment = TORN[name]
    shutil.copytree(run_folders[name], tmp_path / name)
    whole = (tmp_path / name / file).read_bytes()
    (tmp_path / name / file).write_bytes(whole[:-20])
    done = worldsheet(tmp_path / name, "--out", tmp_path / "r.html")
    assert done.exit_code == 2, done.output
    assert str(tmp_path / name / file) in done.stderr.replace("\n", "")
    assert fragment in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "r.html").exists()


def refusals(folders: Folders, place: Path) -> Sequence[tuple[list[object], str, str]]:
    (place / "other").mkdir()
    (place / "other" / "notes.txt").write_text("no run")
    strange = place / "strange"
    shutil.copytree(folders["zero"], strange)
    save_file({"ticks": torch.arange(3)}, strange / "worldsheet.safetensors")
    return [
        ([place / "other"], "there is none of stages.json, compare.json", "worldsheet train, train --stages, compare"),
        ([place / "gone"], "there is no folder", "a folder that worldsheet train"),
        ([folders["zero"], folders["zero"]], "several different ones, got 2, of which 1 differ", "each once"),
        ([strange], "it has no state_residuals, costate_residuals", "tensors ticks, state_residuals"),
        (
            [folders["zero"], "--out", place / "other" / "notes.txt" / "r.html"],
            "notes.txt",
            "a file that can be written",
        ),
    ]


@pytest.mark.parametrize("number", range(5))
def test_refusals_name_what_is_accepted(number: int, run_folders: Folders, tmp_path: Path) -> None:
    words, given, accepted = refusals(run_folders, tmp_path)[number]
    done = worldsheet(*words, *([] if "--out" in words else ["--out", tmp_path / "r.html"]))
    assert done.exit_code == 2, done.output
    assert given in done.stderr, done.stderr
    assert accepted in done.stderr
    assert "Traceback" not in done.output


def test_the_example_runs(run_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run_folders["zero"], tmp_path / "runs" / "deep")
    shutil.copytree(run_folders["rivals"], tmp_path / "runs" / "rivals")
    monkeypatch.chdir(tmp_path)
    done = worldsheet(*EXAMPLE.partition("Example: worldsheet report ")[2].split())
    assert done.exit_code == 0, done.output
    assert "Learning curves" in done.stdout
    assert (tmp_path / "report.html").is_file()

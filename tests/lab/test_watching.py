"""What a run in stages shows of itself: reports, table, lines, timeline and TensorBoard."""

import io
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from typer.testing import CliRunner

import worldsheet as ws
from worldsheet.pipeline import (
    Action,
    ActionType,
    Completed,
    Locked,
    Pipeline,
    Stashed,
    Unlocked,
    balanced,
    measured_costs,
)
from worldsheet_lab import plots_stages
from worldsheet_lab.cli import app
from worldsheet_lab.recipes import recipe_for
from worldsheet_lab.run_folder import METRICS, RunFolder
from worldsheet_lab.staged.display import watching
from worldsheet_lab.staged.meter import INTERVAL, Meter
from worldsheet_lab.staged.reports import FOLDER, Report, Reports

START = Report(1, (3, 4), 2, 5, 0, 8, 0.0, 0.0, 0, 0, 0.0)


def pipeline(stages: int, order: ws.pipeline.PipelineSchedule) -> Pipeline:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)]
    make = partial(torch.optim.SGD, lr=0.1)
    return Pipeline(ws.Chain(layers, nn.MSELoss()), stages, optimizer=make, weights=Stashed(), schedule=order)


def packets(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator)) for _ in range(count)]


def test_a_stage_knows_how_stale_its_last_credit_was_and_its_costate() -> None:
    stale = pipeline(4, Unlocked(1))
    stale.train(packets(9))
    assert [stage.staleness for stage in stale.stages] == [3, 2, 1, 0]
    assert [stage.in_flight for stage in stale.stages] == [0, 0, 0, 0]

    fresh = pipeline(2, Locked(1))
    (pair,) = packets(1)
    first, second = (nn.Sequential(*(layer.module for layer in stage.chain.layers)) for stage in fresh.stages)
    middle = first(pair[0]).detach().requires_grad_()
    output = second(middle)
    expected = torch.autograd.grad(nn.functional.mse_loss(output, pair[1]), [middle, output])
    fresh.train([pair])
    for stage, costate in zip(fresh.stages, expected, strict=True):
        torch.testing.assert_close(stage.costate, costate, rtol=1e-5, atol=1e-7)


def test_a_meter_tells_rates_over_the_time_since_its_last_report() -> None:
    told: list[Report] = []
    meter = Meter(pipeline(2, Unlocked(1)).stages[1], START, [4, 6, 8], told.append)
    zero = time.perf_counter()
    meter._since = zero
    meter.note(Completed(Action(ActionType.FORWARD, 0), zero + 0.1, zero + 0.2))
    meter.note(Completed(Action(ActionType.PULL, 0), zero + 0.3, zero + 0.4))
    assert told == []
    meter.note(Completed(Action(ActionType.PULL, 1), zero + 0.8, zero + 2 * INTERVAL))
    meter.close(zero + 2 * INTERVAL + 2.0)
    first, second = told
    assert (first.answered, first.stage, first.layers) == (2, 1, (3, 4))
    assert first.samples_per_s == pytest.approx(10 / (2 * INTERVAL))
    assert first.busy == pytest.approx((0.1 + 0.1 + 2 * INTERVAL - 0.8) / (2 * INTERVAL))
    assert (second.answered, second.samples_per_s, second.busy) == (2, 0.0, 0.0)


def test_reports_are_read_as_written_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    other = Report(0, (1, 2), 2, 5, 3, 8, 12.5, 0.5, 2, 1, 0.25, loss=1.5)
    reports.write(START)
    reports.write(other)
    (tmp_path / FOLDER / "2.json").write_text('{"stage": 2')
    assert reports.read() == [other, START]
    reports.clear()
    assert reports.read() == []


def test_lines_tell_new_rows_once_and_none_that_is_half_written(tmp_path: Path) -> None:
    folder = RunFolder.create(recipe_for("digits"), tmp_path / "run")
    folder.append({"kind": "segment", "segment": 1, "epoch": 1, "loss": 3.0, "samples_per_s": 10.0})
    heard = io.StringIO()
    with watching(folder, 4, Console(file=heard, width=30)):
        folder.append({"kind": "segment", "segment": 2, "epoch": 2, "loss": 0.5, "samples_per_s": 1234.5})
        folder.append({"kind": "epoch", "segment": 2, "epoch": 2, "test_accuracy": 0.875})
        with (folder.path / METRICS).open("ab") as file:
            file.write(b'{"kind": "epo')
    assert heard.getvalue().splitlines() == [
        "epoch 2/4   segment 2   loss 0.5000   1,234 samples/s",
        "epoch 2/4   87.50% of the test images right",
    ]


def test_a_terminal_gets_a_row_for_each_stage(tmp_path: Path) -> None:
    folder = RunFolder.create(recipe_for("digits"), tmp_path / "run")
    heard = io.StringIO()
    console = Console(file=heard, width=90, force_terminal=True, color_system=None)
    with watching(folder, 4, console):
        Reports(folder.path).write(Report(0, (1, 2), 2, 5, 4, 8, 4321.0, 0.75, 3, 2, 0.25))
        Reports(folder.path).write(Report(1, (3, 3), 2, 5, 6, 8, 4000.0, 1.0, 1, 0, 2.5, loss=0.125))
        time.sleep(1.0)  # some pictures
    shown = heard.getvalue()
    rows = [line.split() for line in shown.splitlines() if "1..2" in line or "2.50e+00" in line]
    assert ["0", "1..2", "75%", "4,321", "3", "2", "2.50e-01"] in [[w for w in row if "━" not in w] for row in rows]
    assert ["1", "3", "100%", "4,000", "1", "0", "2.50e+00"] in [[w for w in row if "━" not in w] for row in rows]
    assert "30%" in shown  # one segment of five, and half of the second at the slowest stage
    assert "loss 0.1250" in shown


def test_areas_of_the_timeline_are_times() -> None:
    beat = [("F{}", 0.0, 1.0), ("B{}", 1.0, 3.0)]  # a third up, two thirds back; every fourth second it waits
    notes = [(name.format(n), 4.0 * n + a, 4.0 * n + b) for n in range(4) for name, a, b in beat]
    picture = np.asarray(Image.open(io.BytesIO(plots_stages.timeline([notes, notes], "two alike"))).convert("RGB"))
    bars = picture[60:-70, : int(0.8 * picture.shape[1])].astype(int)  # without shares, title and legend

    def area(*colour: int) -> float:
        return float((abs(bars - np.array(colour)).sum(2) < 12).sum())

    up, back, idle = area(31, 119, 180), area(255, 127, 14), area(237, 237, 237)
    assert back / up == pytest.approx(2, rel=0.15)
    assert idle / up == pytest.approx(3 / 4, rel=0.15)  # the last wait is not drawn


def test_a_plan_follows_measured_times() -> None:
    class Toils(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            until = time.thread_time() + 0.02  # a stage is worth the processor's time, not the clock's
            while time.thread_time() < until:
                pass
            return 1 * x

    layers: list[nn.Module] = [nn.Linear(3, 3) for _ in range(5)]
    layers.insert(1, Toils())
    costs = measured_costs(ws.Chain(layers, nn.MSELoss()), *packets(1)[0], repeats=1)
    plan = balanced(costs, 3)
    assert plan.cuts[:3] == (0, 1, 2)
    assert str(plan).splitlines()[1].startswith("stage 1: layers 2..2")


def points(folder: Path, name: str, tag: str) -> list[float]:
    board = EventAccumulator(str(folder / "tensorboard" / name))
    board.Reload()
    return [event.value for event in board.Scalars(tag)]


def test_tensorboard_has_what_the_metrics_have(tmp_path: Path) -> None:
    small = ["--depth", "3", "--width", "8", "--train-size", "96", "--test-size", "50", "--epochs", "2"]
    place = tmp_path / "run"
    done = CliRunner().invoke(app, ["train", *small, "--tensorboard", "--run", str(place), "--compare-every", "0"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (place / METRICS).read_text().splitlines()]
    for name in ("relaxation", "autograd"):
        scores = [row["test_accuracy"] for row in rows if row["kind"] == "epoch" and row["contender"] == name]
        assert points(place, name, "test/accuracy") == pytest.approx(scores)
        assert len(points(place, name, "train/loss")) == 4

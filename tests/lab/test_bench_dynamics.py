"""`bench dynamics` measures what it says, rivals in a Python of their own. No test depends on how long it takes."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner
from typer.testing import Result as CommandResult

import worldsheet as ws
from benchmarks.command import bench
from benchmarks.dynamics_command import Row, measured, table
from benchmarks.measure import Settings
from benchmarks.relaxations import STUDIES, Study, instance_of
from benchmarks.results import Timing
from benchmarks.rivals import SCRIPTS, Task, running
from benchmarks.timing import spread
from worldsheet.diagnostics.autograd import autograd_backward

CPU = torch.device("cpu")
SETTINGS = Settings(threads=(1,), rounds=1, quick=True, device=CPU, seed=0)
ECHO = """
import sys
print(1.5, flush=True)
for number, line in enumerate(sys.stdin):
    print(number, flush=True)
"""
TASK = Task((8, 5, 3), 20, 4, 1)


def run(*arguments: str) -> CommandResult:
    return CliRunner().invoke(bench, ["dynamics", *arguments])


def study(name: str) -> Study:
    (found,) = STUDIES[name]
    return found


def script(folder: Path, code: str) -> Path:
    path = folder / "rival.py"
    path.write_text(code, encoding="utf-8")
    return path


def test_the_residual_mlp_is_relaxed_for_twice_its_depth() -> None:
    for width, depth, ratio in ((32, 32, 6), (128, 32, 19), (32, 128, 22)):
        case = study(f"residual-w{width}-l{depth}")
        assert (case.ticks, case.goal) == (2 * depth, ("pc-alm", ratio))
        built = instance_of(case, 2, 0, CPU)
        assert len(built.chain) == depth
        assert [tuple(p.shape) for p in built.chain.parameters()][1:-1] == [(width, width)] * (depth - 2)
    (lagrangian,) = [method for method in study("residual-w32-l32").methods if method.name == "pc-alm"]
    assert lagrangian.rules is not None
    assert isinstance(lagrangian.rules.dynamics, ws.AugmentedLagrangian)


@pytest.mark.parametrize("name", ["pc-784", "pc-w128-l10"])
def test_a_rival_is_asked_for_the_network_that_is_measured(name: str) -> None:
    case = study(name)
    weights = [p for p in instance_of(case, 2, 0, CPU).chain.parameters() if p.dim() == 2]
    assert [(p.shape[1], p.shape[0]) for p in weights] == list(zip(case.widths, case.widths[1:], strict=False))
    assert (case.ticks, case.trains) == (20, True)


def test_every_relaxation_of_a_study_makes_a_gradient_of_its_network() -> None:
    case = study("residual-w32-l32")
    built = instance_of(case, 2, 0, CPU)
    autograd_backward(*built)
    shapes = [p.grad.shape for p in built.chain.parameters() if p.grad is not None]
    for method in case.methods:
        for parameter in built.chain.parameters():
            parameter.grad = None
        method.gradient(*built)
        assert [p.grad.shape for p in built.chain.parameters() if p.grad is not None] == shapes
        assert sum(float(p.grad.norm()) for p in built.chain.parameters() if p.grad is not None) > 0


def test_a_rival_is_told_its_task_and_answers_in_turn(tmp_path: Path) -> None:
    told = "import sys\nprint(len(sys.argv), flush=True)\nassert sys.argv[1:] == ['8,5,3', '20', '4', '1']\n" + ECHO
    path = script(tmp_path, told)
    with running({"pcx": Path(sys.executable)}, TASK.words, {"pcx": path}) as rivals:
        (rival,) = rivals
        assert (rival.name, rival.compiling) == ("pcx", 5)
        for _ in range(3):
            rival.step()


@pytest.mark.parametrize("code", ["raise SystemExit", "print('hello', flush=True)"])
def test_a_python_without_the_library_is_refused(tmp_path: Path, code: str) -> None:
    path = script(tmp_path, code)
    with (
        pytest.raises(ws.errors.InputError, match="--pcx"),
        running({"pcx": Path(sys.executable)}, TASK.words, {"pcx": path}),
    ):
        pass


def test_a_python_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ws.errors.InputError, match="--fabricpc"), running({"fabricpc": tmp_path / "none"}, TASK.words):
        pass


def test_rivals_have_scripts() -> None:
    assert set(SCRIPTS) == {"pcx", "fabricpc"}
    assert all(path.is_file() for path in SCRIPTS.values())


def test_a_step_of_sgd_belongs_to_what_rivals_do() -> None:
    case = replace(study("pc-784"), make=lambda: torch.nn.Sequential(torch.nn.Linear(784, 10)))
    row = measured(case, SETTINGS, {}, lambda text: None)
    assert [timing.method for timing in row.timings] == ["autograd", "pc"]
    assert row.trains
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table([row]))
    assert "not measured: no --pcx" in capture.get()


def test_json_is_one_object_with_goals() -> None:
    found = run("--quick", "--repeats", "1", "--threads", "1", "--case", "residual-w32-l32", "--json")
    assert found.exit_code == 0, found.output
    (case,) = json.loads(found.stdout)["cases"]
    assert case["goal"] == {"method": "pc-alm", "ratio": 6.0}
    methods = [timing["method"] for timing in case["timings"]]
    assert methods == ["autograd", "pc-alm", "pc-alm, every site", "pc", "dyadic 0.9", "wave"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--case", "residual"], ["residual", "residual-w32-l32", "pc-784"]),
        (["--threads", "0"], ["--threads must be whole numbers above 0, got 0"]),
        (["--repeats", "-1"], ["--repeats must not be negative, got -1"]),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: Sequence[str], told: Sequence[str]) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert all(text in found.stderr for text in told)


def test_a_goal_stands_beside_its_method() -> None:
    one = spread([0.001])
    timings = tuple(Timing(name, 1, 1, one, one) for name in ("autograd", "pc-alm", "wave"))
    shown = table([Row("case", 1, 1, 2, False, ("pc-alm", 6.0), timings, {})])
    cells = {column.header: list(column.cells) for column in shown.columns}
    assert cells["method"] == ["autograd", "pc-alm", "wave"]
    assert cells["goal"] == ["", "≤ 6", ""]

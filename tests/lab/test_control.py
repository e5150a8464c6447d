"""`worldsheet control` and receding horizons: what is printed, written and refused, and a loop against noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import worldsheet as ws
from plants import DOUBLE, bounded, close, double_integrator, linear
from worldsheet_lab import plots_plants
from worldsheet_lab.cli import app
from worldsheet_lab.control.collection import COLLECTION
from worldsheet_lab.control.problems import KNOWN

C = ws.control


def test_the_command_solves_draws_and_tells(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["control", "bangbang", "--json", "--run", str(tmp_path), "--tol", "1e-6"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["status"] == "converged"
    assert told["cost"] == pytest.approx(2.0, abs=1e-4)
    assert told == json.loads((tmp_path / "result.json").read_text())
    with Image.open(tmp_path / "search.gif") as film:
        assert film.n_frames > 3  # equal frames are written once
    assert {path.name for path in tmp_path.iterdir()} >= {"trajectory.png", "worldsheet.png", "control.json"}
    saved = load_file(tmp_path / "trajectory.safetensors")
    assert float(saved["times"][-1]) == pytest.approx(told["duration"])
    search = load_file(tmp_path / "search.safetensors")
    assert int(search["ticks"][-1]) == told["ticks"]
    torch.testing.assert_close(search["states"][-1][:, : saved["states"].shape[-1]], saved["states"])


def test_the_list_names_every_problem_with_its_title_and_a_listed_one_is_solved(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["control", "--list"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0, listed.output
    told = json.loads(CliRunner().invoke(app, ["control", "--list", "--json"]).stdout)
    assert {name: told[name] for name in COLLECTION} == {name: case.title for name, case in COLLECTION.items()}
    assert {name: told[name] for name in KNOWN} == {name: known.title for name, known in KNOWN.items()}
    for name, title in told.items():
        assert f"{name} " in listed.stdout
        assert title in listed.stdout
    done = CliRunner().invoke(app, ["control", "minimum-fuel", "--json", "--run", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["cost"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["pendulums"], "did you mean 'pendulum'"),
        (["pendulum", "--method", "newton"], "no method is called 'newton'"),
        (["bangbang", "--method", "wave"], "cannot solve a problem with a terminal_constraint"),
        (["pendulum", "--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_the_command_refuses_in_a_sentence(options: list[str], fragment: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["control", *options, "--run", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert fragment in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_loop_is_told_and_its_plant_is_seen_to_move(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["control", "pendulum", "--mpc", "5", "--json", "--run", str(tmp_path)])
    assert done.exit_code == 0, done.output
    loop = json.loads(done.stdout)["closed_loop"]
    assert loop["steps"] == loop["converged"] == 5
    with Image.open(tmp_path / "plant.gif") as film:
        assert film.n_frames == 6  # the start and five steps
        first = film.copy()
        film.seek(5)
        assert first.convert("RGB").tobytes() != film.convert("RGB").tobytes()


def test_a_lap_is_driven_in_a_closed_loop_and_filmed(tmp_path: Path) -> None:
    """The duration is free: each step leaves a stage less, and lasts as long as the plan says."""
    done = CliRunner().invoke(app, ["control", "race-car", "--mpc", "4", "--json", "--run", str(tmp_path)])
    assert done.exit_code == 0, done.output
    loop = json.loads(done.stdout)["closed_loop"]
    assert loop["steps"] == loop["converged"] == 4
    assert loop["last_state"][0] > 0.0
    with Image.open(tmp_path / "plant.gif") as film:
        assert film.n_frames == 5


def test_a_plant_is_drawn_where_its_state_says() -> None:
    """A pole on a cart that stands upright has its tip above the cart, half a metre up."""
    axes = Figure().subplots()
    plots_plants.PLANTS["cartpole"](axes, np.array([[0.0, 0.0, 0.0, 0.0], [0.4, np.pi, 0.0, 0.0]]), 1)
    tip = axes.lines[-1].get_xydata()
    assert np.allclose(np.asarray(tip), [[0.4, 0.5]], atol=1e-12)
    axes = Figure().subplots()
    plots_plants.PLANTS["race-car"](axes, np.array([[0.25, 0.5]]), 0)
    assert np.allclose(np.asarray(axes.lines[-1].get_xydata()), [[0.0, 1.0]], atol=1e-12)
    assert [text.get_text() for text in axes.texts] == ["speed 0.50\nlimit 0.50"]


def test_a_receding_horizon_of_a_linear_system_is_its_first_gain() -> None:
    system = linear(3, 1, 30, 1.1, seed=2)
    controller = C.MPC(system.problem)
    loop = controller.run(system.start, 6)
    sol = C.solve(system.problem)
    assert sol.gains is not None
    state = system.start
    for k in range(6):
        control = sol.gains[0] @ state
        close(loop.controls[k], control, 1e-9)
        state = system.A @ state + system.B @ control
        close(loop.states[k + 1], state, 1e-9)
    assert loop.ticks.max() <= 1


def test_a_bounded_loop_holds_against_noise_and_starts_warm() -> None:
    starts = torch.tensor([[1.0, 0.0], [-0.5, 0.3]], dtype=DOUBLE)
    controller = C.MPC(bounded(double_integrator(20, dt=0.1, batch=starts), 0.8), tol=1e-4)
    generator = torch.Generator().manual_seed(0)

    def plant(state: Tensor, control: Tensor, time: float) -> Tensor:
        noise = 0.002 * torch.randn(state.shape, dtype=DOUBLE, generator=generator)
        return controller.model(state, control, time) + noise

    loop = controller.run(starts, 25, plant)
    assert loop.converged.all()
    assert float(loop.controls.abs().max()) <= 0.8 + 1e-6
    assert float(loop.controls.abs().max()) > 0.79  # the limit is met
    assert float(loop.states[:, -1].abs().max()) < 0.3
    with pytest.raises(ws.errors.InputError, match="MPC needs a fixed horizon"):
        C.MPC(
            C.Problem(
                dynamics=lambda x, u, t: u,
                running_cost=lambda x, u, t: 1 + 0 * x[..., 0],
                initial_state=torch.ones(1, dtype=DOUBLE),
                control_size=1,
                steps=3,
                duration=C.FreeDuration(1.0),
            )
        )


def test_a_plan_can_be_interrupted_and_says_so() -> None:
    controller = C.MPC(bounded(double_integrator(20)), max_ticks=1)
    plan = controller.plan(torch.tensor([2.0, 0.0], dtype=DOUBLE))
    assert plan.outcome.status is ws.Status.BUDGET_SPENT
    assert controller.solution is plan

"""`worldsheet control`: a known problem solved by waves, with trajectories, costates and the waves themselves."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from torch import Tensor

from worldsheet.control import (
    MPC,
    ForwardBackwardSweep,
    History,
    Loop,
    Problem,
    ShrinkingHorizon,
    Trajectory,
    solve,
)
from worldsheet.core.errors import InputError
from worldsheet.core.outcome import Status
from worldsheet.dynamics import Riccati, Wave
from worldsheet_lab import plots_control, plots_plants
from worldsheet_lab.choices import choose
from worldsheet_lab.commands.control import Control
from worldsheet_lab.control import saved
from worldsheet_lab.control.problems import PROBLEMS, Known
from worldsheet_lab.run_folder import RESULT, RunFolder
from worldsheet_lab.subsample import subsample

_KICK, _KICK_TICKS, _IMPEDANCE, _SPEED = 0.05, 400, 0.3, 0.5
_NOISE, _LITTLE_NOISE = 0.01, 1e-3  # of each state in a closed loop, and of one that has to arrive
_COLUMNS = 12  # states that a figure has room for; of more, some evenly chosen ones are drawn


def control(options: Control) -> None:
    """Carry the command out."""
    if options.listed:
        _list(as_json=options.as_json)
        return
    known = choose("problem", options.problem, PROBLEMS)
    console = Console(stderr=True)
    folder = RunFolder.at(options.run or Path("runs") / f"control-{options.problem}")
    posed = _posed(known, options.device)
    history = History()
    console.print(f"{known.title}: {posed.steps} stages, {posed.state_size} states, {posed.control_size} controls")
    begun = time.perf_counter()
    guess = known.guess(posed)
    solution = solve(
        posed,
        _method(options.method, options.impedance, options.speed, options.relaxation),
        guess,
        options.tol,
        options.max_ticks or None,
        history,
    )
    seconds = time.perf_counter() - begun
    for line in _progress(history):
        console.print(line, highlight=False)
    console.print(f"{solution.outcome}; cost {float(solution.cost):.6g}, {1e3 * seconds:.0f} ms", highlight=False)
    result = _result(options.problem, options.method, solution, seconds)
    path = (solution.times.cpu(), solution.states.cpu())
    if options.mpc:
        loop, result["closed_loop"] = _closed_loop(known, posed, options, console)
        path = (loop.times.cpu(), loop.states.cpu())
    if options.problem in plots_plants.PLANTS:
        draw = plots_plants.PLANTS[options.problem]
        folder.write("plant.gif", plots_plants.plant_film(draw, *path, known.title))
    waves = _kicked(known, solution)
    _draw(folder, known, options.method, solution, history, waves)
    saved.save(folder, known, solution, history, waves)
    console.print(f"figures in {folder.path}", highlight=False)
    folder.write(RESULT, json.dumps(result, indent=2).encode() + b"\n")
    if options.as_json:
        typer.echo(json.dumps(result))
    else:
        Console().print(_table(result, known, folder.path))


def _list(*, as_json: bool) -> None:
    """Names and titles."""
    titles = {name: known.title for name, known in PROBLEMS.items()}
    if as_json:
        typer.echo(json.dumps(titles))
        return
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, title in titles.items():
        table.add_row(name, title)
    Console().print(table)


def _posed(known: Known, device: str) -> Problem:
    try:
        return known.build(torch.tensor(known.initial, dtype=torch.float64, device=device))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {device} cannot be used: {error}", "a device that this torch can use", "use --device cpu"
        ) from error


def _method(name: str, impedance: float, speed: float, relaxation: float) -> Wave | ForwardBackwardSweep:
    table: dict[str, Wave | ForwardBackwardSweep] = {
        "matched": Wave(impedance=Riccati()),
        "wave": Wave(impedance=impedance, speed=speed),
        "sweep": ForwardBackwardSweep(relaxation),
    }
    return choose("method", name, table)


def _progress(history: History) -> list[str]:
    """A line for each of at most a dozen ticks."""
    worst = torch.stack((history.state_residuals.abs().amax((1, 2)), history.costate_residuals.abs().amax((1, 2))), -1)
    step = max(1, len(worst) // 12)
    return [
        f"tick {history.ticks[row]:>6}   residual of the dynamics {float(worst[row, 0]):.1e}, "
        f"of the costates {float(worst[row, 1]):.1e}"
        for row in [*range(0, len(worst), step)]
    ]


def _result(problem: str, method: str, solution: Trajectory, seconds: float) -> dict[str, Any]:
    """What `--json` prints."""
    outcome = solution.outcome
    return {
        "problem": problem,
        "method": method,
        "status": outcome.status.value,
        "remedy": outcome.remedy,
        "ticks": outcome.ticks,
        "seconds": seconds,
        "cost": _number(solution.cost),
        "duration": _number(solution.duration),
        "residuals": {name: _number(value) for name, value in vars(solution.residuals).items()},
    }


def _number(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None


def _closed_loop(known: Known, problem: Problem, options: Control, console: Console) -> tuple[Loop, dict[str, Any]]:
    """The plant is the model, pushed by noise at every step; where it is, is shown as it moves."""
    generator = torch.Generator().manual_seed(options.seed)
    begun = time.perf_counter()
    with Live(console=console, transient=True) as shown:

        def disturbed(state: Tensor, control: Tensor, now: float, following: Tensor, size: float) -> Tensor:
            noise = torch.randn(state.shape, dtype=state.dtype, generator=generator).to(state.device)
            shown.update(_instant(known, now, state, control))
            return following + size * noise

        if problem.duration is None:
            controller, model = MPC(problem), MPC(problem)
            loop = controller.run(
                problem.initial_state,
                options.mpc,
                lambda x, u, t: disturbed(x, u, t, model.model(x, u, t), _NOISE),
            )
        else:
            shrinking = ShrinkingHorizon(problem)
            loop = shrinking.run(
                problem.initial_state,
                lambda x, u, t, length: disturbed(x, u, t, shrinking.model(x, u, t, length), _LITTLE_NOISE),
                options.mpc,
            )
    return loop, {
        "steps": loop.ticks.shape[-1],
        "ticks": loop.ticks.tolist(),
        "converged": int(loop.converged.sum()),
        "seconds_per_step": (time.perf_counter() - begun) / loop.ticks.shape[-1],
        "last_state": loop.states[-1].tolist(),
    }


def _instant(known: Known, now: float, state: Tensor, control: Tensor) -> Table:
    """Where the plant is, and what is done there."""
    table = Table(box=None, show_header=False, padding=(0, 2), title=f"{known.title}: t = {now:.2f}")
    for name, value in zip((*known.states, *known.controls), (*state.tolist(), *control.tolist()), strict=True):
        table.add_row(name, f"{value:+.3f}")
    return table


def _draw(
    folder: RunFolder, known: Known, method: str, solution: Trajectory, history: History, kicked: History | None
) -> None:
    labels = plots_control.Labels(known.states, known.controls, known.title, time=known.time)
    times = solution.times.cpu()
    size = solution.problem.state_size
    drawn = subsample(size, _COLUMNS)
    chosen = replace(
        labels,
        states=[known.states[column] for column in drawn],
        goal=[known.goal[column] for column in drawn] if known.goal else (),
    )
    fields = (solution.states.cpu()[:, drawn], solution.costates.cpu()[:, drawn], solution.controls.cpu())
    folder.write("trajectory.png", plots_control.trajectories(times, *fields, chosen))
    shown = history if kicked is None else kicked
    what = f"the search, method {method}" if kicked is None else f"waves after a kick of {_KICK:g}, method wave"
    residuals = (shown.state_residuals.norm(dim=-1), shown.costate_residuals.norm(dim=-1))
    titled = replace(labels, title=f"{known.title}: {what}")
    picture = plots_control.worldsheet(shown.ticks, residuals, float(times[-1] - times[0]), titled)
    folder.write("worldsheet.png", picture)
    film = (history.states[..., :size], history.costates[..., :size], history.controls)
    folder.write("search.gif", plots_control.film(times, *film, labels))


def _kicked(known: Known, solution: Trajectory) -> History | None:
    """The scalar wave from the solution of a slightly different initial state; None where it cannot be used."""
    problem = solution.problem
    constrained = (problem.path_constraint, problem.terminal_constraint, problem.duration)
    if any(part is not None for part in constrained) or not solution.outcome.converged:
        return None
    history = History()
    kicked = problem.at(problem.initial_state + _KICK)
    outcome = solve(kicked, Wave(impedance=_IMPEDANCE, speed=_SPEED), solution, 1e-12, _KICK_TICKS, history).outcome
    return None if outcome.status is Status.DIVERGED else history


def _table(result: dict[str, Any], known: Known, folder: Path) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name in ("problem", "method", "status", "ticks"):
        table.add_row(name, str(result[name]))
    table.add_row("cost", _shown(result["cost"]))
    table.add_row("duration", _shown(result["duration"]) + (" s" if "(s)" in known.time else ""))
    table.add_row("time to solve", f"{1e3 * result['seconds']:.0f} ms")
    for name, value in result["residuals"].items():
        table.add_row(f"{name} residual", _shown(value, "{:.1e}"))
    if "closed_loop" in result:
        loop = result["closed_loop"]
        table.add_row("closed loop", f"{loop['converged']} of {loop['steps']} steps converged, {loop['ticks']} ticks")
        table.add_row("time per step", f"{1e3 * loop['seconds_per_step']:.1f} ms")
    table.add_row("folder", str(folder))
    return table


def _shown(value: float | None, form: str = "{:.4g}") -> str:
    return "not finite" if value is None else form.format(value)

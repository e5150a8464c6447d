"""`worldsheet control`: its options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import typer

from worldsheet_lab.names import METHODS, PROBLEMS

EXAMPLE = "Example: worldsheet control cartpole --run runs/cartpole"

_IMPEDANCE, _SPEED = 0.3, 0.5


@final
@dataclass(frozen=True)
class Control:
    """Solve a known optimal control problem and draw what happened.

    The folder gets trajectories with costates, the waves of a kick over time
    and tick, a film of the search, their numbers, and the result as JSON; of
    a pendulum, a cart-pole and a race car also a film of how they move.
    """

    problem: Annotated[str, typer.Argument(help=f"{', '.join(PROBLEMS)}, or what --list names")] = "pendulum"
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = "matched"
    impedance: Annotated[float, typer.Option(help="impedance z of the scalar wave")] = _IMPEDANCE
    speed: Annotated[float, typer.Option(help="speed ν of the scalar wave")] = _SPEED
    relaxation: Annotated[float, typer.Option(help="share ω of the new control in a sweep")] = 0.5
    tol: Annotated[float, typer.Option(help="stop when all residuals are below this")] = 1e-8
    max_ticks: Annotated[int, typer.Option(help="budget; 0 for the method's own")] = 0
    mpc: Annotated[int, typer.Option(help="steps of a disturbed closed loop afterwards; 0 for none")] = 0
    seed: Annotated[int, typer.Option(help="disturbances of the closed loop")] = 0
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu"
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="folder; runs/control-<problem>")] = None
    listed: Annotated[bool, typer.Option("--list", help="name all problems with their titles, and solve none")] = False
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False


def run(chosen: Control) -> None:
    """Solve a problem."""
    from worldsheet_lab.control.command import control  # noqa: PLC0415  torch, once it is needed

    control(chosen)

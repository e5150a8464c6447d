"""The known problems by name, with what they are called and where their searches start."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import final

import torch
from torch import Tensor

from worldsheet.control import Guess, Problem
from worldsheet_lab.control.collection import COLLECTION, Case
from worldsheet_lab.control.plants import (
    bangbang,
    cartpole,
    coasting,
    hovering,
    obstacle,
    pendulum,
    quadrotor,
    rocket,
    rolled_out,
    straight,
    vanderpol,
)

DTYPE = torch.float64


@final
@dataclass(frozen=True)
class Known:
    """A problem by name.

    Attributes:
        title: what it is, in a line.
        build: the problem for initial states (..., n).
        initial: the initial state that is solved if none is given.
        states: names of the states, with units where they have any.
        controls: names of the controls, likewise.
        guess: where a search starts, for a problem.
        spread: how far the initial states of a batch lie apart, per state.
        goal: what each state is to be at the end, None where that is free; empty where no state has a goal.
        time: what the axis of time is called.
    """

    title: str
    build: Callable[[Tensor], Problem]
    initial: tuple[float, ...]
    states: tuple[str, ...]
    controls: tuple[str, ...]
    guess: Callable[[Problem], Guess]
    spread: tuple[float, ...]
    goal: tuple[float | None, ...] = ()
    time: str = "time"

    def problem(self) -> Problem:
        """From the initial state of the textbook."""
        return self.build(torch.tensor(self.initial, dtype=DTYPE))

    def batch(self, count: int, generator: torch.Generator) -> Problem:
        """From `count` initial states around it, uniformly drawn."""
        middle, spread = (torch.tensor(values, dtype=DTYPE) for values in (self.initial, self.spread))
        drawn = 2 * torch.rand((count, len(self.initial)), dtype=DTYPE, generator=generator) - 1
        return self.build(middle + spread * drawn)


_SECONDS = "time (s)"

KNOWN = {
    "pendulum": Known(
        "swing-up of a pendulum",
        pendulum,
        (0.0, 0.0),
        ("angle (rad)", "speed (rad/s)"),
        ("torque (N m)",),
        rolled_out,
        (0.5, 0.5),
        (pi, 0.0),
        _SECONDS,
    ),
    "cartpole": Known(
        "swing-up of a pole on a cart",
        cartpole,
        (0.0, 0.0, 0.0, 0.0),
        ("position (m)", "angle (rad)", "speed (m/s)", "turning rate (rad/s)"),
        ("force (N)",),
        rolled_out,
        (0.2, 0.2, 0.2, 0.2),
        (0.0, pi, 0.0, 0.0),
        _SECONDS,
    ),
    "bangbang": Known(
        "least time for a mass",
        bangbang,
        (1.0, 0.0),
        ("position (m)", "speed (m/s)"),
        ("force (N)",),
        rolled_out,
        (0.3, 0.3),
        (0.0, 0.0),
        _SECONDS,
    ),
    "vanderpol": Known("van der Pol oscillator", vanderpol, (0.0, 1.0), ("x_1", "x_2"), ("u",), rolled_out, (0.3, 0.3)),
    "rocket": Known(
        "Goddard's rocket",
        rocket,
        (1.0, 0.0, 1.0),
        ("height", "speed", "mass"),
        ("thrust",),
        coasting,
        (0.0, 0.01, 0.0),
        (None, None, 0.6),
    ),
    "quadrotor": Known(
        "quadrotor to hover",
        quadrotor,
        (1.5, -1.0, -1.0, 0.2, -0.2, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (
            *("x (m)", "y (m)", "z (m)", "roll (rad)", "pitch (rad)", "yaw (rad)"),
            *("v_x (m/s)", "v_y (m/s)", "v_z (m/s)", "p (rad/s)", "q (rad/s)", "r (rad/s)"),
        ),
        ("rotor 1 (N)", "rotor 2 (N)", "rotor 3 (N)", "rotor 4 (N)"),
        hovering,
        (0.5,) * 3 + (0.2,) * 3 + (0.1,) * 6,
        (0.0,) * 12,
        _SECONDS,
    ),
    "obstacle": Known(
        "around a disc",
        obstacle,
        (0.0, 0.0, 0.0, 0.0),
        ("x (m)", "y (m)", "v_x (m/s)", "v_y (m/s)"),
        ("a_x (m/s²)", "a_y (m/s²)"),
        straight,
        (0.1, 0.1, 0.1, 0.1),
        (2.0, 2.0, 0.0, 0.0),
        _SECONDS,
    ),
}


def _collected(case: Case) -> Known:
    """A problem of the collection, from the default guess; a batch of it is the same problem many times."""
    still = (0.0,) * len(case.states)
    return Known(case.title, case.problem, case.initial, case.states, case.controls, rolled_out, still)


PROBLEMS = {**KNOWN, **{name: _collected(case) for name, case in COLLECTION.items()}}
"""The known problems, and those of the collection."""

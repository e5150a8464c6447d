"""What a problem of the collection is, and how it becomes a `Problem`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.control import RK4, FreeDuration, Integrator, Problem
from worldsheet_lab.control.collection.scalars import Rate, Scalar, Vector

_RK4 = RK4()


@final
@dataclass(frozen=True)
class Reference:
    """What the discretised problem costs, and how that is known.

    Attributes:
        cost: what is minimised, at the solution.
        method: who found it, from where, to which tolerance.
        published: what the literature gives for the problem in continuous time, as a cost; None where nothing is known.
        within: how far the two may lie apart, relative: the controls are held over stages here.
        publisher: who published it, or the closed form.
    """

    cost: float
    method: str = "IPOPT 3.14 by CasADi, from the default guess, tol 1e-10"
    published: float | None = None
    within: float = 0.0
    publisher: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class Case:
    """An optimal control problem of the field, its functions written once, component by component.

    Functions are given sequences of scalars and return such, so that PyTorch and CasADi evaluate the same lines. None
    depends on time. Every search starts from the default guess, `Guess()`.

    Attributes:
        name: what it is called on the command line.
        title: what it is, in a line.
        source: where it comes from.
        states: names of the states, with units where they have any.
        controls: names of the controls, likewise.
        initial: the initial state.
        steps: N, how many stages the controls are held over.
        duration: of the whole horizon; with its order of magnitude where it is free.
        dynamics: rates of the states.
        running: cost per unit of time; none by default.
        terminal: cost at the end; none by default.
        bounds: (lo, hi) of the controls.
        path: at most 0 at the start of every stage.
        end: 0 at the end.
        integrator: how a stage is made.
        reference: what it costs.
    """

    name: str
    title: str
    source: str
    states: tuple[str, ...]
    controls: tuple[str, ...]
    initial: tuple[float, ...]
    steps: int
    duration: float | FreeDuration
    dynamics: Rate
    running: Callable[[Vector, Vector], Scalar] | None = None
    terminal: Callable[[Vector], Scalar] | None = None
    bounds: tuple[Sequence[float], Sequence[float]] | None = None
    path: Rate | None = None
    end: Callable[[Vector], Vector] | None = None
    integrator: Integrator = _RK4
    reference: Reference

    def problem(self, initial: Tensor | None = None) -> Problem:
        """For initial states (..., n), or the collection's own in float64."""
        running, terminal, path, end = self.running, self.terminal, self.path, self.end
        free = self.duration if isinstance(self.duration, FreeDuration) else None
        return Problem(
            dynamics=lambda x, u, t: _stacked(self.dynamics(_parts(x), _parts(u)), t),
            running_cost=lambda x, u, t: _filled(0.0 if running is None else running(_parts(x), _parts(u)), t),
            terminal_cost=None if terminal is None else lambda x: _filled(terminal(_parts(x)), x[..., 0]),
            initial_state=torch.tensor(self.initial, dtype=torch.float64) if initial is None else initial,
            control_size=len(self.controls),
            steps=self.steps,
            dt=1.0 if isinstance(self.duration, FreeDuration) else self.duration / self.steps,
            duration=free,
            integrator=self.integrator,
            bounds=self.bounds,
            path_constraint=None if path is None else lambda x, u, t: _stacked(path(_parts(x), _parts(u)), t),
            terminal_constraint=None if end is None else lambda x: _stacked(end(_parts(x)), x[..., 0]),
        )


def _parts(vector: Tensor) -> tuple[Tensor, ...]:
    return vector.unbind(-1)


def _stacked(parts: Vector, like: Tensor) -> Tensor:
    return torch.stack([_filled(part, like) for part in parts], -1)


def _filled(value: Scalar, like: Tensor) -> Tensor:
    """Constants in the shape of the others."""
    return value if isinstance(value, Tensor) else torch.full_like(like, value)

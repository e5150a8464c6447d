"""A problem in its discrete form, the way all methods see it: batch and horizon flat, functions of one point."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.problem import Problem


@final
@dataclass(frozen=True)
class Discretised:
    """A problem with its batch and horizon flattened to (B, N, ...).

        minimise φ(z_N) + Σ_k L_k(z_k, u_k),   z_{k+1} = F_k(z_k, u_k),   G_k(z_k, u_k) ≤ 0,   ψ(z_N) = 0        (21)

    z is the state, followed by θ where the duration is free. A point of a stage is w = (z, u). G stacks the finite
    bounds after the path constraints.

    Attributes:
        problem: what is discretised.
        start: z_0, (B, nz); θ begins at 0.
        parameters: (B, 1, q) or None.
    """

    problem: Problem
    start: Tensor
    parameters: Tensor | None

    @staticmethod
    def of(problem: Problem) -> "Discretised":
        """Flatten a problem."""
        state = problem.initial_state.detach().reshape(-1, problem.state_size)
        extra = problem.parameters
        if extra is not None:
            extra = extra.detach().expand(*problem.batch, extra.shape[-1]).reshape(len(state), 1, -1)
        free = int(problem.duration is not None)
        return Discretised(problem, torch.nn.functional.pad(state, (0, free)), extra)

    @property
    def free(self) -> int:
        """How many entries at the end of z_0 are chosen and not given: 1 for a free duration, else 0."""
        return int(self.problem.duration is not None)

    @property
    def size(self) -> int:
        """nz, with θ."""
        return self.start.shape[-1]

    @property
    def bound_count(self) -> int:
        """How many rows of G are bounds."""
        return sum(map(len, self._bounded()))

    def select(self, index: Tensor) -> "Discretised":
        """Some of the problems."""
        extra = None if self.parameters is None else self.parameters[index]
        return replace(self, start=self.start[index], parameters=extra)

    def stages(self, points: Tensor) -> Tensor:
        """(L, F, G) of every stage, (..., B, N, 1 + nz + p), at points (..., B, N, nz + m)."""
        problem, lead = self.problem, points.shape[:-1]
        state, control = points[..., : self.size], points[..., self.size :]
        path = state[..., : problem.state_size]
        time, dt = self._clock(state)
        following, cost = problem.integrator.step(self._flow(control, lead), path, time, dt)
        pieces = [cost[..., None], following, state[..., problem.state_size :]]
        if problem.path_constraint is not None:
            pieces.append(problem.path_constraint(path, control, time, *self._extra(lead)))
        low, high = self._bounded()
        if len(high):
            pieces.append(control[..., high] - problem.limits()[1][high])
        if len(low):
            pieces.append(problem.limits()[0][low] - control[..., low])
        return torch.cat(pieces, -1)

    def end(self, points: Tensor) -> Tensor:
        """(φ, ψ) at the end, (..., B, 1 + k), at states (..., B, nz)."""
        problem, lead = self.problem, points.shape[:-1]
        path = points[..., : problem.state_size]
        extra = tuple(entry[..., 0, :] for entry in self._extra((*lead, 1)))
        pieces = []
        if problem.terminal_cost is None:
            pieces.append(points.new_zeros((*lead, 1)))
        else:
            pieces.append(problem.terminal_cost(path, *extra)[..., None])
        if problem.terminal_constraint is not None:
            pieces.append(problem.terminal_constraint(path, *extra))
        return torch.cat(pieces, -1)

    def following(self, state: Tensor, control: Tensor, stage: int) -> Tensor:
        """z_{k+1} (B, nz) of one stage from (B, nz) and (B, m)."""
        point = state[:, None]
        path = point[..., : self.problem.state_size]
        time, dt = self._clock(point, stage)
        flow = replace(self._flow(control[:, None], path.shape[:-1]), costs=False)
        following, _ = self.problem.integrator.step(flow, path, time, dt)
        return torch.cat((following, point[..., self.problem.state_size :]), -1)[:, 0]

    def times(self, states: Tensor) -> Tensor:
        """t_0 … t_N, (B, N + 1), at states (B, N + 1, nz)."""
        problem = self.problem
        count = torch.arange(problem.steps + 1, dtype=states.dtype, device=states.device)
        if problem.duration is None:
            return (problem.initial_time + problem.dt * count).expand(len(states), -1)
        dt = problem.duration.guess / problem.steps * states[:, :1, -1].exp()
        return problem.initial_time + dt * count

    def _clock(self, state: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Time and length of each stage from `first` on, (..., B, N) both."""
        problem, lead = self.problem, state.shape[:-1]
        if problem.duration is None and lead[-1] == 1:
            return state.new_full(lead, problem.initial_time + problem.dt * first), state.new_full(lead, problem.dt)
        count = torch.arange(first, first + lead[-1], dtype=state.dtype, device=state.device)
        if problem.duration is None:
            return (problem.initial_time + problem.dt * count).expand(lead), state.new_tensor(problem.dt).expand(lead)
        dt = problem.duration.guess / problem.steps * state[..., -1].exp()
        return problem.initial_time + dt * count, dt

    def _flow(self, control: Tensor, lead: torch.Size) -> "_Flow":
        return _Flow(self.problem, control, self._extra(lead))

    def _extra(self, lead: tuple[int, ...]) -> tuple[Tensor, ...]:
        return () if self.parameters is None else (self.parameters.expand(*lead, -1),)

    def _bounded(self) -> tuple[list[int], list[int]]:
        """Which controls have a finite lower and a finite upper bound."""
        if self.problem.bounds is None:
            return [], []
        low, high = self.problem.limits()
        return (low.isfinite().nonzero().flatten().tolist(), high.isfinite().nonzero().flatten().tolist())


@final
@dataclass(frozen=True)
class _Flow:
    """Rates of state and cost while the control is held."""

    problem: Problem
    control: Tensor
    extra: tuple[Tensor, ...]
    costs: bool = True

    def __call__(self, state: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        lead = state.shape[:-1]  # an implicit integrator asks for copies
        control = self.control.expand(*lead, -1)
        arguments = (state, control, time.expand(lead), *(entry.expand(*lead, -1) for entry in self.extra))
        rate = self.problem.dynamics(*arguments)
        return rate, self.problem.running_cost(*arguments) if self.costs else torch.zeros_like(arguments[2])

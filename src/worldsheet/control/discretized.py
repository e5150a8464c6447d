"""A problem in its discrete form, the way all methods see it: batch and horizon flat, functions of one point."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.compiled.execution import Execution
from worldsheet.control.implicit import ImplicitMethod
from worldsheet.control.integrator import Integrator
from worldsheet.control.limits import limits_of
from worldsheet.control.problem import Problem


@final
@dataclass(frozen=True)
class Limits:
    """The finite bounds on the controls: u[high] ≤ top and bottom ≤ u[low]."""

    high: tuple[int, ...]
    top: Tensor
    low: tuple[int, ...]
    bottom: Tensor

    @staticmethod
    def of(problem: Problem) -> "Limits":
        """Which controls have which."""
        bottom, top = problem.limits()
        low, high = (tuple(side.isfinite().nonzero().flatten().tolist()) for side in (bottom, top))
        return Limits(high, top[list(high)], low, bottom[list(low)])

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.high) + len(self.low)

    def excess(self, control: Tensor) -> list[Tensor]:
        """By how much controls (..., m) exceed them, upper bounds first."""
        above = [_chosen(control, self.high) - self.top] if self.high else []
        return [*above, self.bottom - _chosen(control, self.low)] if self.low else above

    def slopes(self, before: int, controls: int) -> Tensor:
        """The Jacobian of `excess` in (before other entries, controls), (count, before + controls)."""
        eye = torch.eye(before + controls, dtype=self.top.dtype, device=self.top.device)
        return torch.cat((eye[[before + row for row in self.high]], -eye[[before + row for row in self.low]]))


def _chosen(control: Tensor, columns: tuple[int, ...]) -> Tensor:
    return control if len(columns) == control.shape[-1] else control[..., list(columns)]


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
        limits: the finite bounds.
        time: t_0, ().
        asked: which rows of path constraints and terminal inequality are asked, 1 or 0, (N, p); None where all are.
        stage: which stage is the first of those that are looked at, (); None for the first of all.
    """

    problem: Problem
    start: Tensor
    parameters: Tensor | None
    limits: Limits
    time: Tensor
    asked: Tensor | None
    stage: Tensor | None = None

    @staticmethod
    def of(problem: Problem) -> "Discretised":
        """Flatten a problem."""
        state = problem.initial_state.detach().reshape(-1, problem.state_size)
        extra = problem.parameters
        if extra is not None:
            extra = extra.detach().expand(*problem.batch, extra.shape[-1]).reshape(len(state), 1, -1)
        free = int(problem.duration is not None)
        start, time = torch.nn.functional.pad(state, (0, free)), state.new_tensor(problem.initial_time)
        return Discretised(problem, start, extra, Limits.of(problem), time, _asked(problem))

    @property
    def execution(self) -> Execution:
        """What runs the functions of a tick."""
        return self.problem.execution

    @property
    def integrator(self) -> Integrator:
        """What makes stages."""
        return self.problem.integrator

    @property
    def steps(self) -> int:
        """N."""
        return self.problem.steps

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the largest controls, (m,) each, infinite where there is no bound."""
        return self.problem.limits()

    @property
    def free(self) -> int:
        """How many entries at the end of z_0 are chosen and not given: 1 for a free duration, else 0."""
        return int(self.problem.duration is not None)

    @property
    def implicit(self) -> bool:
        """Whether a stage is the root of equations."""
        return self.problem.integrator.implicit is not None

    @property
    def size(self) -> int:
        """nz, with θ."""
        return self.start.shape[-1]

    def select(self, index: Tensor) -> "Discretised":
        """Some of the problems."""
        extra = None if self.parameters is None else self.parameters[index]
        return replace(self, start=self.start[index], parameters=extra)

    def put(self, index: Tensor, other: "Discretised") -> "Discretised":
        """With other problems in these places."""
        extra = self.parameters
        if extra is not None and other.parameters is not None:
            extra = extra.index_copy(0, index, other.parameters)
        return replace(self, start=self.start.index_copy(0, index, other.start), parameters=extra)

    def constraints(self) -> tuple[int, int]:
        """How many rows G and ψ have."""
        rows = sum(self.problem.path_rows()) + self.problem.terminal_rows()
        return rows + self.limits.count, self.end(self.start).shape[-1] - 1

    def stages(self, points: Tensor) -> Tensor:
        """(L, F, G) of every stage, (..., B, N, 1 + nz + p), at points (..., B, N, nz + m)."""
        control = points[..., self.size :]
        return torch.cat([self.carried(points), *self.path(points), *self.limits.excess(control)], -1)

    def carried(self, points: Tensor) -> Tensor:
        """(L, F) of every stage, (..., B, N, 1 + nz)."""
        problem = self.problem
        state = points[..., : self.size]
        path = state[..., : problem.state_size]
        time, dt = self.clock(state)
        flow = _Flow(problem, points[..., self.size :], self._extra(points.shape[:-1]))
        following, cost = problem.integrator.step(flow, path, time, dt)
        pieces = [cost[..., None], following]
        return torch.cat([*pieces, state[..., problem.state_size :]] if self.free else pieces, -1)

    def path(self, points: Tensor) -> list[Tensor]:
        """The path constraints of every stage, and the terminal inequality of where it leads; −1 where not asked."""
        problem, size = self.problem, self.problem.state_size
        state, control, extra = points[..., : self.size], points[..., self.size :], self._extra(points.shape[:-1])
        found = []
        if problem.path_constraint is not None:
            time, _ = self.clock(state)
            found.append(problem.path_constraint(state[..., :size], control, time, *extra))
        if problem.terminal_inequality is not None:
            found.append(problem.terminal_inequality(self.carried(points)[..., 1 : 1 + size], *extra))
        if self.asked is None or not found:
            return found
        return [self.asked * torch.cat(found, -1) + (self.asked - 1)]

    def rates(self, points: Tensor, fraction: Tensor | float) -> Tensor:
        """Rates of state, θ and cost per stage, (..., nz + 1), at points (..., B, N, nz + m) a fraction into it."""
        state = points[..., : self.size]
        time, dt = self.clock(state, fraction)
        flow = _Flow(self.problem, points[..., self.size :], self._extra(points.shape[:-1]))
        rate, cost = flow(state[..., : self.problem.state_size], time)
        pieces = [rate, torch.zeros_like(cost)[..., None], cost[..., None]] if self.free else [rate, cost[..., None]]
        return dt[..., None] * torch.cat(pieces, -1)

    def substages(self, method: ImplicitMethod, points: Tensor) -> Tensor:
        """Points (s, ..., B, N, nz + m) at the substages of every stage, without gradients."""
        problem, state = self.problem, points[..., : self.size]
        time, dt = self.clock(state)
        flow = _Flow(problem, points[..., self.size :], self._extra(points.shape[:-1]), costs=False)
        places = method.substages(flow, state[..., : problem.state_size], time, dt)
        held = points[..., problem.state_size :].expand(*places.shape[:-1], -1)
        return torch.cat((places, held), -1)

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
        return torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0]

    def following(self, state: Tensor, control: Tensor, stage: Tensor) -> Tensor:
        """z_{k+1} (B, nz) of stage () from (B, nz) and (B, m)."""
        problem, point = self.problem, state[:, None]
        dt = state.new_full((), problem.dt)
        time = self.time + problem.dt * stage
        if problem.duration is not None:
            dt = problem.duration.guess / problem.steps * point[..., -1].exp()
            time = self.time + dt * stage
        flow = _Flow(problem, control[:, None], self._extra(point.shape[:-1]), costs=False)
        path = point[..., : problem.state_size]
        following, _ = problem.integrator.step(flow, path, time.expand(path.shape[:-1]), dt)
        return torch.cat((following[:, 0], state[:, problem.state_size :]), -1) if self.free else following[:, 0]

    def times(self, states: Tensor) -> Tensor:
        """t_0 … t_N, (B, N + 1), at states (B, N + 1, nz)."""
        problem = self.problem
        count = torch.arange(problem.steps + 1, dtype=states.dtype, device=states.device)
        if problem.duration is None:
            return (self.time + problem.dt * count).expand(len(states), -1)
        dt = problem.duration.guess / problem.steps * states[:, :1, -1].exp()
        return self.time + dt * count

    def clock(self, state: Tensor, fraction: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Time a fraction into each stage and the stage's length, both (..., B, N)."""
        problem, lead = self.problem, state.shape[:-1]
        count = torch.arange(lead[-1], dtype=state.dtype, device=state.device) + fraction
        if self.stage is not None:
            count = count + self.stage
        if problem.duration is None:
            return (self.time + problem.dt * count).expand(lead), state.new_full((), problem.dt).expand(lead)
        dt = problem.duration.guess / problem.steps * state[..., -1].exp()
        return self.time + dt * count, dt

    def _extra(self, lead: tuple[int, ...]) -> tuple[Tensor, ...]:
        return () if self.parameters is None else (self.parameters.expand(*lead, -1),)


def _asked(problem: Problem) -> Tensor | None:
    """Which path constraints and terminal inequalities are asked of which stage; None where all are, everywhere."""
    limits = limits_of(problem.path_constraint)
    if all(limit.first == 0 for limit in limits) and problem.terminal_inequality is None:
        return None
    like, counts = problem.initial_state, problem.path_rows()
    firsts = [first for limit, rows in zip(limits, counts, strict=True) for first in limit.firsts(rows)]
    firsts += [problem.steps - 1] * problem.terminal_rows()
    stage = torch.arange(problem.steps, device=like.device)[:, None]
    return (stage >= torch.tensor(firsts, device=like.device)).to(like)


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

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
    """The finite bounds on the controls: u[high] ≤ top and bottom ≤ u[low].

    Attributes:
        high: which controls have an upper bound anywhere.
        top: where it is, (high,), or (N, high) where bounds differ from stage to stage.
        low: which have a lower bound.
        bottom: likewise.
        held: which bounds there are at which stage, 1 or 0, (N, high + low); None where all are, everywhere.
    """

    high: tuple[int, ...]
    top: Tensor
    low: tuple[int, ...]
    bottom: Tensor
    held: Tensor | None = None

    @staticmethod
    def of(problem: Problem) -> "Limits":
        """Which controls have which."""
        bottom, top = problem.limits()
        anywhere = (side.isfinite().any(0) if side.dim() > 1 else side.isfinite() for side in (bottom, top))
        low, high = (tuple(side.nonzero().flatten().tolist()) for side in anywhere)
        top, bottom = top[..., list(high)], bottom[..., list(low)]
        finite = torch.cat((top, bottom), -1).isfinite()
        if bool(finite.all()):
            return Limits(high, top, low, bottom)
        top, bottom = (torch.where(side.isfinite(), side, 0.0) for side in (top, bottom))
        return Limits(high, top, low, bottom, finite.to(top))

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.high) + len(self.low)

    def excess(self, control: Tensor) -> list[Tensor]:
        """By how much controls (..., m) exceed them, upper bounds first; −1 at stages that have none."""
        found = [_chosen(control, self.high) - self.top] if self.high else []
        found = [*found, self.bottom - _chosen(control, self.low)] if self.low else found
        return found if self.held is None else [self.held * torch.cat(found, -1) + (self.held - 1)]

    def slopes(self, before: int, controls: int) -> Tensor:
        """The Jacobian of `excess` in (before other entries, controls), (count, before + controls), or (N, ...)."""
        eye = torch.eye(before + controls, dtype=self.top.dtype, device=self.top.device)
        rows = torch.cat((eye[[before + row for row in self.high]], -eye[[before + row for row in self.low]]))
        return rows if self.held is None else self.held[..., None] * rows


def _chosen(control: Tensor, columns: tuple[int, ...]) -> Tensor:
    return control if len(columns) == control.shape[-1] else control[..., list(columns)]


@final
@dataclass(frozen=True)
class Grid:
    """Where stages are in time: since t_0, or with a free duration in units of the mean length of a stage.

    Attributes:
        elapsed: until a stage starts, (N,).
        length: of a stage, (N,).
    """

    elapsed: Tensor
    length: Tensor

    @staticmethod
    def of(problem: Problem) -> "Grid":
        """Of all stages of a problem; carries gradients if its dt does."""
        length = problem.stage_lengths()
        count = torch.arange(problem.steps, dtype=length.dtype, device=length.device)
        if not isinstance(problem.dt, Tensor):
            return Grid(count * length[0], length)
        return Grid(length.cumsum(0) - length, length)


@final
@dataclass(frozen=True)
class Discretised:
    """A problem with its batch and horizon flattened to (B, N, ...).

        minimise φ(z_N) + Σ_k L_k(z_k, u_k),   z_{k+1} = F_k(z_k, u_k),   G_k(z_k, u_k) ≤ 0,   ψ(z_N) = 0        (21)

    z is the state, followed by unknowns, and by θ where the duration is free. A point of a stage is w = (z, u). G
    stacks path constraints, the terminal inequality, bounds of unknowns and of controls. L_0 has the initial cost.

    Attributes:
        problem: what is discretised.
        start: z_0, (B, nz), or where the search for its free entries starts; θ begins at 0.
        parameters: those that are given and stage data side by side, (B, 1, ·), or (B, N, ·) where there are stage
            data; None where there is neither.
        ending: the same at the end of the horizon, (B, 1, ·), where there are stage data.
        limits: the finite bounds.
        time: t_0, ().
        asked: which rows of G, without bounds of controls, are asked, 1 or 0, (N, p); None where all are.
        grid: where stages are in time.
        first: 1 at the stage that has the initial cost, 0 elsewhere, (N,); None where there is no such cost.
    """

    problem: Problem
    start: Tensor
    parameters: Tensor | None
    ending: Tensor | None
    limits: Limits
    time: Tensor
    asked: Tensor | None
    grid: Grid
    first: Tensor | None

    @staticmethod
    def of(problem: Problem) -> "Discretised":
        """Flatten a problem."""
        start, given, ending = _flattened(problem)
        given, ending = (None if part is None else part.detach() for part in (given, ending))
        time, first, grid = start.new_tensor(problem.initial_time), None, Grid.of(problem)
        if problem.initial_cost is not None:
            first = (torch.arange(problem.steps, device=start.device) == 0).to(start)
        grid = Grid(grid.elapsed.detach(), grid.length.detach())
        rest = (Limits.of(problem), time, _asked(problem), grid, first)
        return Discretised(problem, start.detach(), given, ending, *rest)

    def opened(self) -> "Discretised":
        """The same with everything that is given not detached."""
        start, given, ending = _flattened(self.problem)
        return replace(self, start=start, parameters=given, ending=ending, grid=Grid.of(self.problem))

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
        """The least and the largest controls, (m,) or (N, m) each, infinite where there is no bound."""
        return self.problem.limits()

    @property
    def timed(self) -> int:
        """1 where the duration is free, and z has θ, else 0."""
        return int(self.problem.duration is not None)

    @property
    def extra(self) -> int:
        """How many entries z has behind the state: unknowns and θ."""
        unknowns = self.problem.unknowns
        return self.timed + (0 if unknowns is None else unknowns.count)

    @property
    def free(self) -> int:
        """How many entries at the end of z_0 are chosen and not given."""
        return self.size if self.problem.free_initial_state else self.extra

    @property
    def implicit(self) -> bool:
        """Whether a stage is the root of equations."""
        return self.problem.integrator.implicit is not None

    @property
    def size(self) -> int:
        """nz, with unknowns and θ."""
        return self.start.shape[-1]

    def select(self, index: Tensor) -> "Discretised":
        """Some of the problems."""
        given, ending = (None if part is None else part[index] for part in (self.parameters, self.ending))
        return replace(self, start=self.start[index], parameters=given, ending=ending)

    def put(self, index: Tensor, other: "Discretised") -> "Discretised":
        """With other problems in these places."""
        given, ending = (
            None if one is None or new is None else one.index_copy(0, index, new)
            for one, new in ((self.parameters, other.parameters), (self.ending, other.ending))
        )
        start = self.start.index_copy(0, index, other.start)
        return replace(self, start=start, parameters=given, ending=ending)

    def instant(self, stage: int) -> "Discretised":
        """One stage by itself, for `following`."""
        given, here = self.parameters, slice(stage, stage + 1)
        if given is not None and self.ending is not None:
            given = given[..., here, :]
        grid = Grid(self.grid.elapsed[here], self.grid.length[here])
        return replace(self, parameters=given, grid=grid, asked=None, first=None)

    def constraints(self) -> tuple[int, int]:
        """How many rows G and ψ have."""
        rows = sum(self.problem.path_rows()) + self.problem.terminal_rows() + self.problem.unknown_rows()
        return rows + self.limits.count, self.end(self.start).shape[-1] - 1

    def stages(self, points: Tensor) -> Tensor:
        """(L, F, G) of every stage, (..., B, N, 1 + nz + p), at points (..., B, N, nz + m)."""
        control, carried = points[..., self.size :], self.carried(points)
        if self.priced:
            carried = torch.cat((carried[..., :1] + self.instant_cost(points), carried[..., 1:]), -1)
        return torch.cat([carried, *self.path(points), *self.limits.excess(control)], -1)

    def carried(self, points: Tensor) -> Tensor:
        """(L, F) of every stage without what is counted at its start alone, (..., B, N, 1 + nz)."""
        problem = self.problem
        state = points[..., : self.size]
        path = state[..., : problem.state_size]
        time, dt = self.clock(state)
        flow = _Flow(problem, points[..., self.size :], self._more(state))
        following, cost = problem.integrator.step(flow, path, time, dt)
        pieces = [cost[..., None], following]
        return torch.cat([*pieces, state[..., problem.state_size :]] if self.extra else pieces, -1)

    @property
    def priced(self) -> bool:
        """Whether there is a cost that is counted at the start of stages and not over time."""
        return self.problem.stage_cost is not None or self.first is not None

    def instant_cost(self, points: Tensor) -> Tensor:
        """What is counted at the start of every stage, the initial cost at the first, (..., B, N, 1).

        The initial cost is evaluated at x_0 for all stages, so that other states have not to be in its domain.
        """
        problem, state = self.problem, points[..., : self.size]
        total, more = torch.zeros_like(points[..., 0]), self._more(state)
        if problem.stage_cost is not None:
            path, control, (time, _) = state[..., : problem.state_size], points[..., self.size :], self.clock(state)
            total = total + problem.stage_cost(path, control, time, *more)
        if self.first is not None and problem.initial_cost is not None:
            own = self.first[:, None]
            begun = own * state + (1 - own) * state[..., :1, :].detach()
            more = self._more(begun)
            total = total + self.first * problem.initial_cost(begun[..., : problem.state_size], *more)
        return total[..., None]

    def path(self, points: Tensor) -> list[Tensor]:
        """Path constraints of every stage, the terminal inequality of where it leads, bounds of unknowns.

        −1 where they are not asked.
        """
        problem, size = self.problem, self.problem.state_size
        state, control = points[..., : self.size], points[..., self.size :]
        found, more = [], self._more(state)
        if problem.path_constraint is not None:
            time, _ = self.clock(state)
            found.append(problem.path_constraint(state[..., :size], control, time, *more))
        if problem.terminal_inequality is not None:
            found.append(
                problem.terminal_inequality(self.carried(points)[..., 1 : 1 + size], *self._more_at_end(state))
            )
        if problem.unknowns is not None and problem.unknown_rows():
            found.append(problem.unknowns.excess(state[..., size : size + problem.unknowns.count]))
        if self.asked is None or not found:
            return found
        return [self.asked * torch.cat(found, -1) + (self.asked - 1)]

    def rates(self, points: Tensor, fraction: Tensor | float) -> Tensor:
        """Rates of z and cost per stage, (..., nz + 1), at points (..., B, N, nz + m) a fraction into it."""
        state = points[..., : self.size]
        time, dt = self.clock(state, fraction)
        flow = _Flow(self.problem, points[..., self.size :], self._more(state))
        rate, cost = flow(state[..., : self.problem.state_size], time)
        still = torch.zeros_like(state[..., self.problem.state_size :])
        pieces = [rate, still, cost[..., None]] if self.extra else [rate, cost[..., None]]
        return dt[..., None] * torch.cat(pieces, -1)

    def substages(self, method: ImplicitMethod, points: Tensor) -> Tensor:
        """Points (s, ..., B, N, nz + m) at the substages of every stage, without gradients."""
        problem, state = self.problem, points[..., : self.size]
        time, dt = self.clock(state)
        flow = _Flow(problem, points[..., self.size :], self._more(state), costs=False)
        places = method.substages(flow, state[..., : problem.state_size], time, dt)
        held = points[..., problem.state_size :].expand(*places.shape[:-1], -1)
        return torch.cat((places, held), -1)

    def end(self, points: Tensor) -> Tensor:
        """(φ, ψ) at the end, (..., B, 1 + k), at states (..., B, nz)."""
        problem, lead = self.problem, points.shape[:-1]
        path = points[..., : problem.state_size]
        more = tuple(entry[..., 0, :] for entry in self._more_at_end(points[..., None, :]))
        pieces = []
        if problem.terminal_cost is None:
            pieces.append(points.new_zeros((*lead, 1)))
        else:
            pieces.append(problem.terminal_cost(path, *more)[..., None])
        if problem.terminal_constraint is not None:
            pieces.append(problem.terminal_constraint(path, *more))
        return torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0]

    def following(self, state: Tensor, control: Tensor) -> Tensor:
        """z_{k+1} (B, nz) from (B, nz) and (B, m), of one stage by itself (`instant`)."""
        problem, point = self.problem, state[:, None]
        time, dt = self.clock(point)
        flow = _Flow(problem, control[:, None], self._more(point), costs=False)
        following, _ = problem.integrator.step(flow, point[..., : problem.state_size], time, dt)
        return torch.cat((following[:, 0], state[:, problem.state_size :]), -1) if self.extra else following[:, 0]

    def times(self, states: Tensor) -> Tensor:
        """t_0 … t_N, (B, N + 1), at states (B, N + 1, nz)."""
        grid = self.grid
        marks = torch.cat((grid.elapsed, grid.elapsed[-1:] + grid.length[-1:]))
        scale = self._scale(states[:, :1])
        return (self.time + (marks if scale is None else scale * marks)).expand(len(states), -1)

    def clock(self, state: Tensor, fraction: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Time a fraction into each stage and the stage's length, both (..., B, N)."""
        lead, grid, scale = state.shape[:-1], self.grid, self._scale(state)
        inside = grid.elapsed + fraction * grid.length
        if scale is None:
            return (self.time + inside).expand(lead), grid.length.expand(lead)
        return self.time + scale * inside, scale * grid.length

    def _scale(self, state: Tensor) -> Tensor | None:
        """The mean length of a stage by θ, (..., B, N), where the duration is free."""
        duration = self.problem.duration
        return None if duration is None else duration.guess / self.problem.steps * state[..., -1].exp()

    def _more(self, state: Tensor) -> tuple[Tensor, ...]:
        """Parameters, data of the stage and unknowns, as far as there are any, (..., B, N, ·) each."""
        return self._arguments(state, self.parameters)

    def _more_at_end(self, state: Tensor) -> tuple[Tensor, ...]:
        """The same at the end of the horizon."""
        return self._arguments(state, self.parameters if self.ending is None else self.ending)

    def _arguments(self, state: Tensor, rows: Tensor | None) -> tuple[Tensor, ...]:
        problem, found = self.problem, list[Tensor]()
        if rows is not None:
            whole = rows.expand(*state.shape[:-1], -1)
            count = 0 if problem.parameters is None else problem.parameters.shape[-1]
            found += [whole[..., :count]] if count else []
            found += [whole[..., count:]] if problem.stage_data is not None else []
        if problem.unknowns is not None:
            found.append(state[..., problem.state_size : problem.state_size + problem.unknowns.count])
        return tuple(found)


def _flattened(problem: Problem) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """z_0, what is given of stages and of the end, with gradients if the problem's tensors carry any."""
    batch, data = problem.batch, problem.stage_data
    start = problem.initial_state.expand(*batch, problem.state_size).reshape(-1, problem.state_size)
    if problem.unknowns is not None:
        guess = problem.unknowns.guess.to(start)
        start = torch.cat((start, guess.expand(*batch, guess.shape[-1]).reshape(len(start), -1)), -1)
    start = torch.nn.functional.pad(start, (0, int(problem.duration is not None)))
    given = problem.parameters
    if given is not None:
        given = given.expand(*batch, given.shape[-1]).reshape(len(start), 1, -1)
    if data is None:
        return start, given, None
    data = data.expand(*batch, *data.shape[-2:]).reshape(len(start), *data.shape[-2:])
    given = data if given is None else torch.cat((given.expand(-1, data.shape[1], -1), data), -1)
    return start, given[:, :-1], given[:, -1:]


def _asked(problem: Problem) -> Tensor | None:
    """Which rows of G, without bounds of controls, are asked of which stage; None where all are, everywhere."""
    limits, unknowns = limits_of(problem.path_constraint), problem.unknown_rows()
    if all(limit.first == 0 for limit in limits) and problem.terminal_inequality is None and not unknowns:
        return None
    like, counts = problem.initial_state, problem.path_rows()
    firsts = [first for limit, rows in zip(limits, counts, strict=True) for first in limit.firsts(rows)]
    firsts += [problem.steps - 1] * problem.terminal_rows()
    lasts = [problem.steps] * len(firsts) + [0] * unknowns
    first, last = (torch.tensor(each, device=like.device) for each in (firsts + [0] * unknowns, lasts))
    stage = torch.arange(problem.steps, device=like.device)[:, None]
    return ((stage >= first) & (stage <= last)).to(like)


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

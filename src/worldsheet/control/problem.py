"""An optimal control problem: what moves, what it costs, what is not allowed."""

from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from worldsheet.control.checks import Called, check_call, check_numbers, check_stage_lengths, refuse_transforms
from worldsheet.control.compiled.execution import Eager, Execution, Static
from worldsheet.control.integrator import RK4, Discrete, Integrator
from worldsheet.control.limits import limits_of
from worldsheet.core.errors import InputError

Bound: TypeAlias = Tensor | float | Sequence[float]

_RK4, _EAGER = RK4(), Eager()


@final
@dataclass(frozen=True)
class FreeDuration:
    """A final time that is itself chosen: duration = guess · exp(θ), with θ a state that stays constant.

    The costate of θ at the start vanishes at the solution: Pontryagin's condition for a free final time.

    Args:
        guess: where the search starts, in units of time.

    Raises:
        InputError: a guess that is not positive.
    """

    guess: float

    def __post_init__(self) -> None:
        """Refuse time that does not go forward."""
        if not (isfinite(self.guess) and self.guess > 0):
            raise InputError(
                f"FreeDuration: guess must be positive and finite, got {self.guess}",
                "a duration, in the unit of time of the dynamics",
                "guess its order of magnitude",
            )


@final
@dataclass(frozen=True, eq=False)
class Unknowns:
    """Parameters that are themselves chosen, as whatever makes the cost least: identification, and design.

    They are states that stay constant and whose initial value is free, so that their costate at the start vanishes at
    the solution. What is known of them before, such as a prior, is a part of `Problem.initial_cost`.

    Args:
        guess: where the search starts, (q,) or (..., q), of every problem its own. Its size is what regularisation is
            measured in, where it is not 0.
        bounds: (lo, hi), numbers or (q,), infinite where there is none.

    Raises:
        InputError: a guess that is no vector of finite real numbers, or bounds that cross.
    """

    guess: Tensor
    bounds: tuple[Bound, Bound] | None = None

    def __post_init__(self) -> None:
        """Refuse a start that is none."""
        guess = self.guess
        if not isinstance(guess, Tensor):
            raise InputError(
                f"Unknowns: guess must be a tensor, got {type(guess).__name__}",
                "a floating-point tensor of shape (q,) or (..., q)",
                "write for example torch.tensor([1.0], dtype=torch.float64)",
            )
        if not guess.is_floating_point() or guess.dim() == 0 or 0 in guess.shape:
            raise InputError(
                f"Unknowns: guess must be a tensor of real numbers with one dimension or more, got {guess!r}",
                "a floating-point tensor of shape (q,) or (..., q)",
                "write for example torch.tensor([1.0], dtype=torch.float64)",
            )
        if not bool(guess.isfinite().all()):
            raise InputError("Unknowns: guess is NaN or infinite", "finite numbers", "guess an order of magnitude")
        self._check_bounds()

    @property
    def count(self) -> int:
        """q."""
        return self.guess.shape[-1]

    def limits(self) -> tuple[Tensor, Tensor]:
        """Lo and hi, (q,) each, infinite where there are none."""
        low, high = self.bounds or (-inf, inf)
        like = self.guess
        limits = [torch.as_tensor(side, dtype=like.dtype, device=like.device) for side in (low, high)]
        return limits[0].expand(self.count), limits[1].expand(self.count)

    def excess(self, values: Tensor) -> Tensor:
        """By how much values (..., q) exceed their finite bounds, upper bounds first."""
        low, high = self.limits()
        above = [values[..., i] - high[i] for i, top in enumerate(high.tolist()) if isfinite(top)]
        below = [low[i] - values[..., i] for i, bottom in enumerate(low.tolist()) if isfinite(bottom)]
        return torch.stack([*above, *below], -1) if above or below else values[..., :0]

    def _check_bounds(self) -> None:
        try:
            low, high = self.limits()
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"Unknowns: bounds must be a lower and an upper bound for every unknown, got {self.bounds}",
                f"(lo, hi), each a number or a tensor of shape ({self.count},)",
                "give two of them",
            ) from error
        crossed = (~(low < high)).nonzero().flatten().tolist()
        if crossed:
            raise InputError(
                f"Unknowns: the lower bound of unknown {crossed[0]} must be below the upper one, got "
                f"{float(low[crossed[0]])} and {float(high[crossed[0]])}",
                "lo < hi for every unknown",
                "exchange them, or hand over what is known as Problem.parameters",
            )


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(Static):
    """Minimise φ_0(x_0) + φ(x_N) + Σ_k (c_k + ∫ l(x, u, t) dt) over controls held constant on each of N stages.

        ẋ = f(x, u, t),   x(t_0) = x_0,   lo ≤ u ≤ hi,   c(x_k, u_k, t_k) ≤ 0 for k < N,   ψ(x_N) = 0             (20)

    All functions are batched: they are given x (..., n), u (..., m) and t (...) and work along the last dimension only.
    What the problem has of `parameters` (..., q), `stage_data` (..., d) of that instant, and `unknowns` (..., r) they
    are given as further arguments, in this order. Leading dimensions of the initial state are independent problems that
    are solved at once.

    Args:
        dynamics: f(x, u, t) → (..., n), a rate; with `Discrete()` the next state.
        running_cost: l(x, u, t) → (...), per unit of time; with `Discrete()` per stage.
        terminal_cost: φ(x) → (...); none by default.
        initial_state: x_0, (..., n); dtype and device of everything. Use float64 unless there is a reason not to.
        free_initial_state: whether x_0 is chosen, too; `initial_state` is where the search starts then.
        initial_cost: φ_0(x_0) → (...): what is known before of an initial state or of unknowns, such as
            ½ |x_0 − x̄|² in the metric of a covariance (an arrival cost).
        stage_cost: c_k(x, u, t) → (...), counted once at the start of every stage and not over time, such as the misfit
            of a measurement; that of the last instant belongs into `terminal_cost`.
        control_size: m; 0 for a flow without control, such as a neural ODE.
        steps: N, at least 1.
        dt: length of a stage in units of time, or of each of them, (N,); with a free duration not used, or how they
            share it.
        integrator: how a stage is made of f and l.
        bounds: (lo, hi) on the controls, numbers, (m,) or of every stage its own, (N, m); infinite where there is none.
        path_constraint: c(x, u, t) → (..., p), at most 0 at the start of every stage; a `PathLimit` says from which
            stage on, and at what price it may be exceeded, `PathLimits` holds several.
        terminal_constraint: ψ(x) → (..., k), to be 0.
        terminal_inequality: of the last state, (x) → (..., q), at most 0; path constraints are not asked of it. It is
            asked of where the last stage leads, and costs one more evaluation of all stages.
        duration: `FreeDuration(guess)` if the final time is free.
        parameters: (..., q), of every problem its own.
        stage_data: of every instant t_0 … t_N its own, (N + 1, d) or (..., N + 1, d): measurements, references, known
            disturbances. Functions of a stage are given the row of its start, all substages the same; those of the end
            the last one.
        unknowns: `Unknowns(guess)`, parameters that are chosen.
        initial_time: t_0.
        execution: `Eager()`, or `Compiled()` where the matched wave is to solve problems like this one many times.

    Raises:
        InputError: an empty horizon, a step that is no time, bounds that cross; a function that fails, returns a wrong
            shape or cannot be differentiated. The message names the culprit.
    """

    dynamics: Callable[..., Tensor]
    running_cost: Callable[..., Tensor]
    terminal_cost: Callable[..., Tensor] | None = None
    initial_state: Tensor
    free_initial_state: bool = False
    initial_cost: Callable[..., Tensor] | None = None
    stage_cost: Callable[..., Tensor] | None = None
    control_size: int
    steps: int
    dt: float | Tensor = 1.0
    integrator: Integrator = _RK4
    bounds: tuple[Bound, Bound] | None = None
    path_constraint: Callable[..., Tensor] | None = None
    terminal_constraint: Callable[..., Tensor] | None = None
    terminal_inequality: Callable[..., Tensor] | None = None
    duration: FreeDuration | None = None
    parameters: Tensor | None = None
    stage_data: Tensor | None = None
    unknowns: Unknowns | None = None
    initial_time: float = 0.0
    execution: Execution = _EAGER

    def __post_init__(self) -> None:
        """Refuse what cannot be solved, before anything is."""
        refuse_transforms()
        check_numbers(self.initial_state, self.control_size, self.steps)
        check_stage_lengths(self.dt, self.steps)
        if self.duration is not None and isinstance(self.integrator, Discrete):
            raise InputError(
                "a problem in discrete time cannot have a free duration",
                "an integrator of rates",
                "use RK4(), or leave duration out",
            )
        self._check_bounds()
        self._check_parameters()
        self._check_stage_data()
        self._check_unknowns()
        self._check_functions()

    @property
    def state_size(self) -> int:
        """n, the size of a state."""
        return self.initial_state.shape[-1]

    @property
    def batch(self) -> torch.Size:
        """Leading dimensions: how many problems, and in which shape."""
        return self.initial_state.shape[:-1]

    def limits(self) -> tuple[Tensor, Tensor]:
        """Lo and hi, (m,) each, or (N, m) where they differ from stage to stage; infinite where there are none."""
        low, high = (self._limit(side) for side in self.bounds or (-inf, inf))
        wide = (self.steps, self.control_size) if max(low.dim(), high.dim()) > 1 else (self.control_size,)
        return low.expand(wide), high.expand(wide)

    def first_limits(self) -> tuple[Tensor, Tensor]:
        """Lo and hi of the first stage, (m,) each."""
        low, high = self.limits()
        return (low[0], high[0]) if low.dim() > 1 else (low, high)

    def stage_lengths(self) -> Tensor:
        """dt of every stage, (N,); with a free duration how they share it, 1 on average."""
        like = self.initial_state
        lengths = torch.as_tensor(self.dt, dtype=like.dtype, device=like.device).expand(self.steps)
        return lengths if self.duration is None else lengths / lengths.mean()

    def path_rows(self) -> list[int]:
        """How many rows each of the path limits has."""
        state, control, time, *extra = self.arguments()
        return [limit(state, control, time, *extra).shape[-1] for limit in limits_of(self.path_constraint)]

    def terminal_rows(self) -> int:
        """How many rows the terminal inequality has."""
        state, _, _, *extra = self.arguments()
        return 0 if self.terminal_inequality is None else self.terminal_inequality(state, *extra).shape[-1]

    def unknown_rows(self) -> int:
        """How many finite bounds unknowns have."""
        return 0 if self.unknowns is None else self.unknowns.excess(self.unknowns.guess).shape[-1]

    def signature(self) -> Hashable:
        """All but what is handed over as tensors: the initial state, times, parameters and data."""
        functions = (
            self.dynamics,
            self.running_cost,
            self.terminal_cost,
            self.path_constraint,
            self.terminal_constraint,
            self.terminal_inequality,
            self.initial_cost,
            self.stage_cost,
        )
        given = tuple(None if part is None else part.shape[-1] for part in (self.parameters, self.stage_data))
        unknown = None if self.unknowns is None else tuple(tuple(side.tolist()) for side in self.unknowns.limits())
        chosen = (self.free_initial_state, unknown, self.duration)
        return (*functions, self.integrator, self.steps, self.control_size, *given, *chosen)

    def executed_by(self, execution: Execution) -> "Problem":
        """The same problem, run in another way."""
        return unchecked(self, execution=execution)

    def _limit(self, bound: Bound) -> Tensor:
        like = self.initial_state
        limit = torch.as_tensor(bound, dtype=like.dtype, device=like.device)
        wide = (self.steps, self.control_size) if limit.dim() > 1 else (self.control_size,)
        return limit.expand(wide)

    def at(
        self,
        initial_state: Tensor,
        initial_time: float | None = None,
        parameters: Tensor | None = None,
        stage_data: Tensor | None = None,
    ) -> "Problem":
        """The same problem from another state and time, with other parameters, without checking its functions again.

        Raises:
            InputError: a state, parameters or data of another size, dtype or device.
        """
        old = self.initial_state
        if (initial_state.shape[-1:], initial_state.dtype, initial_state.device) != (
            old.shape[-1:],
            old.dtype,
            old.device,
        ):
            raise InputError(
                f"initial_state does not fit this problem: it has shape {tuple(initial_state.shape)} and "
                f"{initial_state.dtype} on {initial_state.device}",
                f"shape (..., {self.state_size}) and {old.dtype} on {old.device}",
                "convert it first",
            )
        time = self.initial_time if initial_time is None else initial_time
        moved = unchecked(self, initial_state=initial_state, initial_time=time)
        if parameters is not None:
            moved._take("parameters", parameters)
            moved._check_parameters()
        if stage_data is not None:
            moved._take("stage_data", stage_data)
            moved._check_stage_data()
        return moved

    def _take(self, name: str, given: Tensor) -> None:
        """Others, of the same size."""
        old: Tensor | None = getattr(self, name)
        if old is None or (given.shape[-1:], given.dtype, given.device) != (old.shape[-1:], old.dtype, old.device):
            wanted = "none" if old is None else f"shape (..., {old.shape[-1]}) and {old.dtype} on {old.device}"
            raise InputError(
                f"{name} do not fit this problem: they have shape {tuple(given.shape)} and "
                f"{given.dtype} on {given.device}",
                wanted,
                f"convert them first, or build the problem with {name}",
            )
        object.__setattr__(self, name, given)

    def _check_bounds(self) -> None:
        if self.bounds is None:
            return
        try:
            low, high = self.limits()
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"bounds must be a lower and an upper bound for every control, got {self.bounds}",
                f"(lo, hi), each a number or a tensor of shape ({self.control_size},) or "
                f"({self.steps}, {self.control_size})",
                "give two of them",
            ) from error
        crossed = (~(low <= high)).nonzero().tolist()
        if crossed:
            place = tuple(crossed[0])
            stage = f" at stage {place[0]}" if len(place) > 1 else ""
            raise InputError(
                f"the lower bound of control {place[-1]} must not be above the upper one, got "
                f"{float(low[place])} and {float(high[place])}{stage}",
                "lo ≤ hi for every control",
                "exchange them",
            )

    def _check_parameters(self) -> None:
        if self.parameters is not None and self.parameters.shape[:-1] not in (self.batch, torch.Size()):
            raise InputError(
                f"parameters must have one row for each problem, got shape {tuple(self.parameters.shape)} for problems "
                f"of shape {tuple(self.batch)}",
                f"shape ({', '.join(map(str, [*self.batch, 'q']))})",
                "give each problem its own parameters",
            )

    def _check_stage_data(self) -> None:
        data, rows = self.stage_data, self.steps + 1
        if data is None:
            return
        if data.dim() < 2 or data.shape[-2] != rows or data.shape[:-2] not in (self.batch, torch.Size()):
            raise InputError(
                f"stage_data must have one row for each of the {rows} instants, got shape {tuple(data.shape)} for "
                f"problems of shape {tuple(self.batch)}",
                f"shape ({rows}, d) or ({', '.join(map(str, [*self.batch, rows, 'd']))})",
                "give a row for the start of every stage and one for the end",
            )
        if (data.dtype, data.device) != (self.initial_state.dtype, self.initial_state.device):
            raise InputError(
                f"stage_data have {data.dtype} on {data.device}, and the initial state {self.initial_state.dtype} on "
                f"{self.initial_state.device}",
                "the same dtype and device",
                "convert them first",
            )

    def _check_unknowns(self) -> None:
        if self.unknowns is not None:
            guess = self.unknowns.guess
            if guess.shape[:-1] not in (self.batch, torch.Size()) or guess.dtype != self.initial_state.dtype:
                raise InputError(
                    f"Unknowns: guess must have one row for each problem and the initial state's dtype, got shape "
                    f"{tuple(guess.shape)} and {guess.dtype} for problems of shape {tuple(self.batch)}",
                    f"shape (q,) or ({', '.join(map(str, [*self.batch, 'q']))}), {self.initial_state.dtype}",
                    "give each problem its own guess",
                )
        if self.initial_cost is not None and not self.free_initial_state and self.unknowns is None:
            raise InputError(
                "initial_cost is the same whatever is chosen, since the initial state is given",
                "free_initial_state=True, or unknowns",
                "say what is chosen, or leave initial_cost out",
            )

    def _check_functions(self) -> None:
        """Call each function once with two leading dimensions, the way a solver will."""
        state, control, time, *extra = self.arguments()
        lead = time.shape
        limits = limits_of(self.path_constraint)
        stage, end = (state, control, time, *extra), (state, *extra)
        for name, function, arguments, shape in (
            ("dynamics", self.dynamics, stage, (*lead, self.state_size)),
            ("running_cost", self.running_cost, stage, lead),
            ("stage_cost", self.stage_cost, stage, lead),
            ("initial_cost", self.initial_cost, end, lead),
            ("terminal_cost", self.terminal_cost, end, lead),
            *(("path_constraint", limit.function, stage, (*lead, None)) for limit in limits),
            ("terminal_constraint", self.terminal_constraint, end, (*lead, None)),
            ("terminal_inequality", self.terminal_inequality, end, (*lead, None)),
        ):
            if function is not None:
                check_call(Called(name, function, shape), arguments)
        for limit, rows in zip(limits, self.path_rows(), strict=True):
            limit.firsts(rows)

    def arguments(self) -> tuple[Tensor, ...]:
        """What functions of a stage are called with to see what they do: (x, u, t), and what else there is."""
        lead = (2, max(1, self.initial_state[..., 0].numel()))
        flat = self.initial_state.detach().reshape(-1, self.state_size).nan_to_num(0.0, 0.0, 0.0)
        state = flat.expand(*lead, self.state_size)
        low, high = self.first_limits()
        control = low.new_zeros(self.control_size).clamp(low, high).expand(*lead, self.control_size)
        data = None if self.stage_data is None else self.stage_data[..., 0, :]
        guess = None if self.unknowns is None else self.unknowns.guess
        more = [part for part in (self.parameters, data, guess) if part is not None]
        extra = (part.reshape(-1, part.shape[-1]).expand(*lead, -1) for part in more)
        return state, control, state.new_full(lead, self.initial_time), *extra


def unchecked(problem: Problem, **changes: Any) -> Problem:
    """The same problem with other fields, which are not checked."""
    other = copy(problem)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return other

"""An optimal control problem: what moves, what it costs, what is not allowed."""

from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from worldsheet.control.checks import Called, check_call, check_numbers
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
@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(Static):
    """Minimise φ(x_N) + Σ_k ∫ l(x, u, t) dt over controls that are held constant on each of N stages.

        ẋ = f(x, u, t),   x(t_0) = x_0,   lo ≤ u ≤ hi,   c(x_k, u_k, t_k) ≤ 0 for k < N,   ψ(x_N) = 0             (20)

    All functions are batched: they are given x (..., n), u (..., m) and t (...) and work along the last dimension only.
    With `parameters` they are given those of their problem as one more argument, (..., q). Leading dimensions of the
    initial state are independent problems that are solved at once.

    Args:
        dynamics: f(x, u, t) → (..., n), a rate; with `Discrete()` the next state.
        running_cost: l(x, u, t) → (...), per unit of time; with `Discrete()` per stage.
        terminal_cost: φ(x) → (...); none by default.
        initial_state: x_0, (..., n); dtype and device of everything. Use float64 unless there is a reason not to.
        control_size: m; 0 for a flow without control, such as a neural ODE.
        steps: N, at least 1.
        dt: length of a stage in units of time; not used with a free duration.
        integrator: how a stage is made of f and l.
        bounds: (lo, hi) on the controls, numbers or (m,), infinite where there is none.
        path_constraint: c(x, u, t) → (..., p), at most 0 at the start of every stage; a `PathLimit` says from which
            stage on, and at what price it may be exceeded, `PathLimits` holds several.
        terminal_constraint: ψ(x) → (..., k), to be 0.
        terminal_inequality: of the last state, (x) → (..., q), at most 0; path constraints are not asked of it. It is
            asked of where the last stage leads, and costs one more evaluation of all stages.
        duration: `FreeDuration(guess)` if the final time is free.
        parameters: (..., q), of every problem its own.
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
    control_size: int
    steps: int
    dt: float = 1.0
    integrator: Integrator = _RK4
    bounds: tuple[Bound, Bound] | None = None
    path_constraint: Callable[..., Tensor] | None = None
    terminal_constraint: Callable[..., Tensor] | None = None
    terminal_inequality: Callable[..., Tensor] | None = None
    duration: FreeDuration | None = None
    parameters: Tensor | None = None
    initial_time: float = 0.0
    execution: Execution = _EAGER

    def __post_init__(self) -> None:
        """Refuse what cannot be solved, before anything is."""
        check_numbers(self.initial_state, self.control_size, self.steps, self.dt)
        if self.duration is not None and isinstance(self.integrator, Discrete):
            raise InputError(
                "a problem in discrete time cannot have a free duration",
                "an integrator of rates",
                "use RK4(), or leave duration out",
            )
        self._check_bounds()
        self._check_parameters()
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
        """Lo and hi, (m,) each, infinite where there are none."""
        low, high = self.bounds or (-inf, inf)
        return self._limit(low), self._limit(high)

    def path_rows(self) -> list[int]:
        """How many rows each of the path limits has."""
        state, control, time, *extra = self.arguments()
        return [limit(state, control, time, *extra).shape[-1] for limit in limits_of(self.path_constraint)]

    def terminal_rows(self) -> int:
        """How many rows the terminal inequality has."""
        state, _, _, *extra = self.arguments()
        return 0 if self.terminal_inequality is None else self.terminal_inequality(state, *extra).shape[-1]

    def signature(self) -> Hashable:
        """All but the initial state, the initial time and the parameters, which are handed over as tensors."""
        functions = (
            self.dynamics,
            self.running_cost,
            self.terminal_cost,
            self.path_constraint,
            self.terminal_constraint,
            self.terminal_inequality,
        )
        return (*functions, self.integrator, self.steps, self.dt, self.duration, self.control_size)

    def executed_by(self, execution: Execution) -> "Problem":
        """The same problem, run in another way."""
        return unchecked(self, execution=execution)

    def _limit(self, bound: Bound) -> Tensor:
        like = self.initial_state
        return torch.as_tensor(bound, dtype=like.dtype, device=like.device).expand(self.control_size)

    def at(
        self, initial_state: Tensor, initial_time: float | None = None, parameters: Tensor | None = None
    ) -> "Problem":
        """The same problem from another state and time, with other parameters, without checking its functions again.

        Raises:
            InputError: a state or parameters of another size, dtype or device.
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
            moved._take(parameters)
        return moved

    def _take(self, parameters: Tensor) -> None:
        """Others, of the same size."""
        old = self.parameters
        if old is None or (parameters.shape[-1:], parameters.dtype, parameters.device) != (
            old.shape[-1:],
            old.dtype,
            old.device,
        ):
            wanted = "none" if old is None else f"shape (..., {old.shape[-1]}) and {old.dtype} on {old.device}"
            raise InputError(
                f"parameters do not fit this problem: they have shape {tuple(parameters.shape)} and "
                f"{parameters.dtype} on {parameters.device}",
                wanted,
                "convert them first, or build the problem with parameters",
            )
        object.__setattr__(self, "parameters", parameters)
        self._check_parameters()

    def _check_bounds(self) -> None:
        if self.bounds is None:
            return
        try:
            low, high = self.limits()
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"bounds must be a lower and an upper bound for every control, got {self.bounds}",
                f"(lo, hi), each a number or a tensor of shape ({self.control_size},)",
                "give two of them",
            ) from error
        crossed = (~(low <= high)).nonzero().flatten().tolist()
        if crossed:
            raise InputError(
                f"the lower bound of control {crossed[0]} must not be above the upper one, got "
                f"{float(low[crossed[0]])} and {float(high[crossed[0]])}",
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

    def _check_functions(self) -> None:
        """Call each function once with two leading dimensions, the way a solver will."""
        state, control, time, *extra = self.arguments()
        lead = time.shape
        limits = limits_of(self.path_constraint)
        stage, end = (state, control, time, *extra), (state, *extra)
        for name, function, arguments, shape in (
            ("dynamics", self.dynamics, stage, (*lead, self.state_size)),
            ("running_cost", self.running_cost, stage, lead),
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
        """What functions of a stage are called with to see what they do: (x, u, t), and parameters."""
        lead = (2, max(1, self.initial_state[..., 0].numel()))
        flat = self.initial_state.detach().reshape(-1, self.state_size).nan_to_num(0.0, 0.0, 0.0)
        state = flat.expand(*lead, self.state_size)
        low, high = self.limits()
        control = low.new_zeros(self.control_size).clamp(low, high).expand(*lead, self.control_size)
        time = state.new_full(lead, self.initial_time)
        extra = (
            ()
            if self.parameters is None
            else (self.parameters.reshape(-1, self.parameters.shape[-1]).expand(*lead, -1),)
        )
        return state, control, time, *extra


def unchecked(problem: Problem, **changes: Any) -> Problem:
    """The same problem with other fields, which are not checked."""
    other = copy(problem)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return other

"""Where a search starts."""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.control.discretized import Discretised
from worldsheet.control.methods.stagewise import Follow, marched
from worldsheet.control.multipliers import Multipliers
from worldsheet.core.errors import InputError

_FAR = 1e8  # a rollout that leaves this box says nothing about the solution


@final
@dataclass(frozen=True)
class Guess:
    """A first idea of a solution; what is left out is made up.

    Args:
        controls: (..., N, m); if left out, the middle of two finite bounds, elsewhere zero or what is allowed next to
            it.
        states: (..., N + 1, n); if left out, what the controls lead to, or x_0 throughout where that overflows.
        costates: (..., N + 1, n); zero if left out.
        duration: (...), for a free final time; the problem's guess if left out.
        unknowns: (..., q), for parameters that are chosen; the problem's guess if left out.
        multipliers: of an earlier solution: with them the search begins with the limits that were active there, and
            takes a tick or two near it; without them it begins in the middle of what is allowed.
        excess: by how much soft limits are exceeded, (..., N, e); zero if left out.
    """

    controls: Tensor | None = None
    states: Tensor | None = None
    costates: Tensor | None = None
    duration: Tensor | None = None
    multipliers: Multipliers | None = None
    excess: Tensor | None = None
    unknowns: Tensor | None = None


class Known(NamedTuple):
    """Multipliers of inequalities (B, N, p) and of terminal constraints (B, k) that a search may begin with."""

    inequality: Tensor
    equality: Tensor


class Start(NamedTuple):
    """Fields before tick 0, (B, N + 1, nz) and (B, N, m), with multipliers if they are known."""

    states: Tensor
    costates: Tensor
    controls: Tensor
    known: Known | None = None


def start_of(problem: Discretised, guess: Guess) -> Start:
    """Fields of the right shapes from a guess.

    Raises:
        InputError: a guess of the wrong shape.
    """
    given, steps, size = problem.problem, problem.steps, problem.problem.state_size
    low, high = given.limits()
    controls = _flat(problem, "controls", guess.controls, (steps, given.control_size))
    if controls is None:
        controls = middle(low, high).expand(len(problem.start), steps, -1)
    controls = controls.clamp(low, high)
    first = problem.start.clone()
    if given.duration is not None and guess.duration is not None:
        first[:, -1] = (guess.duration.detach().reshape(-1) / given.duration.guess).log()
    if given.unknowns is not None and guess.unknowns is not None:
        flat = _flat(problem, "unknowns", guess.unknowns[..., None, :], (1, given.unknowns.count))
        assert flat is not None
        first[:, size : size + given.unknowns.count] = flat[:, 0]
    states = _flat(problem, "states", guess.states, (steps + 1, size))
    if states is not None and given.free_initial_state:
        first[:, :size] = states[:, 0]
    if states is None:
        states = tame(rollout(problem, first, controls), first)
    else:
        states = torch.cat((states, first[:, None, size:].expand(-1, steps + 1, -1)), -1)
        states[:, 0] = first
    costates = _flat(problem, "costates", guess.costates, (steps + 1, size))
    costates = torch.zeros_like(states) if costates is None else torch.nn.functional.pad(costates, (0, problem.extra))
    return Start(states, costates, controls, _known(problem, guess.multipliers))


def _known(problem: Discretised, given: Multipliers | None) -> Known | None:
    """Multipliers of the right shapes, none of them negative."""
    if given is None:
        return None
    steps = problem.steps
    rows, ends = problem.constraints()
    inequality = _flat(problem, "multipliers of inequalities", given.inequality, (steps, rows))
    flat = _flat(problem, "multipliers of the end", given.terminal[..., None, :], (1, ends))
    assert inequality is not None
    assert flat is not None
    return Known(inequality.clamp(min=0), flat[:, 0])


@torch.no_grad()
def rollout(problem: Discretised, first: Tensor, controls: Tensor) -> Tensor:
    """Where controls (B, N, m) lead from z_0 (B, nz), stage after stage: (B, N + 1, nz)."""
    return marched(problem, _followed, first, controls)[0]


def middle(low: Tensor, high: Tensor) -> Tensor:
    """The middle of two finite bounds, elsewhere zero or what is allowed next to it, (m,) or (N, m)."""
    return torch.where((high - low).isfinite(), (low + high) / 2, torch.zeros_like(low).clamp(low, high))


def tame(states: Tensor, first: Tensor) -> Tensor:
    """The states (B, N + 1, nz), or the first of them throughout where they leave a box of size 1e8."""
    wild = ~(states.abs().amax((1, 2)) < _FAR)
    return torch.where(wild[:, None, None], first[:, None], states)


def _followed(follow: Follow, state: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
    return follow(state, control), control


def _flat(problem: Discretised, name: str, field: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    if field is None:
        return None
    wanted = (*problem.problem.batch, *shape)
    try:
        whole = field.detach().to(problem.start).expand(wanted)
    except RuntimeError as error:
        raise InputError(
            f"the initial guess of the {name} has shape {tuple(field.shape)}, which does not expand to {wanted}",
            f"shape {wanted}, or one that expands to it",
            "check the number of steps and the sizes of the problem",
        ) from error
    return whole.reshape(len(problem.start), *shape).clone()

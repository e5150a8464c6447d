"""Soft limits: what exceeds them is chosen as controls are, at a price, and taken out of the solution again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.integrator import Discrete
from worldsheet.control.limits import PathLimit, Price, joined, limits_of
from worldsheet.control.methods.initial_guess import Guess
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import Problem, unchecked


@final
@dataclass(frozen=True)
class _Applied:
    """A function of the controls that are applied."""

    function: Callable[..., Tensor]
    controls: int

    def __call__(self, state: Tensor, control: Tensor, *more: Tensor) -> Tensor:
        return self.function(state, control[..., : self.controls], *more)


@final
@dataclass(frozen=True)
class _Loosened:
    """c − e ≤ 0, e the controls from `first` to `last`."""

    function: Callable[..., Tensor]
    controls: int
    first: int
    last: int

    def __call__(self, state: Tensor, control: Tensor, *more: Tensor) -> Tensor:
        return self.function(state, control[..., : self.controls], *more) - control[..., self.first : self.last]


@final
@dataclass(frozen=True)
class _Priced:
    """A running cost with the price of all that is exceeded."""

    function: Callable[..., Tensor]
    controls: int
    prices: tuple[Price, ...]

    def __call__(self, state: Tensor, control: Tensor, *more: Tensor) -> Tensor:
        cost = self.function(state, control[..., : self.controls], *more)
        for column, price in enumerate(self.prices, self.controls):
            excess = control[..., column]
            cost = cost + price.linear * excess + 0.5 * price.quadratic * excess.square()
        return cost


@final
@dataclass(frozen=True)
class Elastic:
    """A problem whose soft limits are hard ones on states, controls and what exceeds.

    Attributes:
        given: with soft limits.
        problem: without; its controls are those of the given one and then the excess of each soft row.
        rows: for each soft row, which row of the path constraint it is.
        prices: of each soft row.
    """

    given: Problem
    problem: Problem
    rows: tuple[int, ...]
    prices: tuple[Price, ...]

    @staticmethod
    def of(given: Problem) -> "Elastic":
        """The problem itself where all limits are hard."""
        limits, controls = limits_of(given.path_constraint), given.control_size
        if all(limit.price is None for limit in limits):
            return Elastic(given, given, (), ())
        counts, made = given.path_rows(), list[PathLimit]()
        rows, prices = list[int](), list[Price]()
        for limit, count, before in zip(limits, counts, _starts(counts), strict=True):
            function: Callable[..., Tensor] = _Applied(limit.function, controls)
            if limit.price is not None:
                column = controls + len(rows)
                function = _Loosened(limit.function, controls, column, column + count)
                rows += range(before, before + count)
                prices += [limit.price] * count
            made.append(PathLimit(function, limit.first))
        low, high = given.limits()
        extra = low.new_zeros((*low.shape[:-1], len(rows)))
        problem = unchecked(
            given,
            control_size=controls + len(rows),
            bounds=(torch.cat((low, extra), -1), torch.cat((high, extra + torch.inf), -1)),
            dynamics=_Applied(given.dynamics, controls),
            running_cost=_Priced(given.running_cost, controls, tuple(prices)),
            stage_cost=None if given.stage_cost is None else _Applied(given.stage_cost, controls),
            path_constraint=joined(made),
        )
        return Elastic(given, problem, tuple(rows), tuple(prices))

    def guess(self, guess: Guess) -> Guess:
        """A guess of the given problem as one of the other, without excess if that is not known."""
        if not self.rows or guess.controls is None:
            return guess if not self.rows else replace(guess, multipliers=None)
        controls, excess = guess.controls.detach(), guess.excess
        if excess is None:
            excess = controls.new_zeros((*controls.shape[:-1], len(self.rows)))
        known = guess.multipliers
        if known is not None:
            rate = excess.new_tensor([price.linear for price in self.prices])
            rate = rate + excess * excess.new_tensor([price.quadratic for price in self.prices])
            pushing = self._length(guess) * rate - known.inequality[..., list(self.rows)]
            known = Multipliers(torch.cat((known.inequality, pushing), -1), known.terminal)
        return replace(guess, controls=torch.cat((controls, excess), -1), multipliers=known)

    def _length(self, guess: Guess) -> Tensor | float:
        """What a stage multiplies a rate of cost with."""
        if isinstance(self.given.integrator, Discrete):
            return 1.0
        lengths = self.given.stage_lengths().detach()[:, None]
        if self.given.duration is None:
            return lengths
        duration = self.given.initial_state.new_tensor(self.given.duration.guess)
        whole = duration if guess.duration is None else guess.duration.detach()
        return whole[..., None, None] / self.given.steps * lengths


def _starts(counts: list[int]) -> list[int]:
    return [sum(counts[:number]) for number in range(len(counts))]

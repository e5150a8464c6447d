"""Implicit Runge–Kutta methods: the equations of a step, solved by Newton's method and differentiated at the root."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from worldsheet.control.derivatives import Local

Flow: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(state, time) → (rate of the state (..., n), rate of the cost (...)); the control is held over the stage."""

_ORDER = 2  # of the highest derivatives of a step that are those of its equations' root
_ROUNDING = 10  # ε of the largest state: no component is asked to be found to less


class ImplicitTableau(NamedTuple):
    """y_i = x + dt Σ_j a_ij f(y_j) at time t + c_i dt, cost dt Σ b_i l(y_i), and x⁺ = x + Σ d_i (y_i − x), d = bᵀA⁻¹.

    The last form evaluates no rate: where the flow is stiff, that would multiply the error of y by dt times its
    fastest rate.

    Attributes:
        inner: a, square.
        outer: b.
        nodes: c.
        onward: d.
    """

    inner: tuple[tuple[float, ...], ...]
    outer: tuple[float, ...]
    nodes: tuple[float, ...]
    onward: tuple[float, ...]


_S = sqrt(6)
RADAU = (
    ImplicitTableau(((1.0,),), (1.0,), (1.0,), (1.0,)),
    ImplicitTableau(((5 / 12, -1 / 12), (3 / 4, 1 / 4)), (3 / 4, 1 / 4), (1 / 3, 1.0), (0.0, 1.0)),
    ImplicitTableau(
        (
            ((88 - 7 * _S) / 360, (296 - 169 * _S) / 1800, (-2 + 3 * _S) / 225),
            ((296 + 169 * _S) / 1800, (88 + 7 * _S) / 360, (-2 - 3 * _S) / 225),
            ((16 - _S) / 36, (16 + _S) / 36, 1 / 9),
        ),
        ((16 - _S) / 36, (16 + _S) / 36, 1 / 9),
        ((4 - _S) / 10, (4 + _S) / 10, 1.0),
        (0.0, 0.0, 1.0),
    ),
)
"""Radau IIA with one, two and three substages, of order 1, 3 and 5; d picks the last substage: R(−∞) = 0."""

MIDPOINT = ImplicitTableau(((0.5,),), (1.0,), (0.5,), (2.0,))
"""The Gauss method with one substage."""


@final
class Coupled:
    """(1 − A ⊗ S) of substages that depend on each other by their slopes S (s, ..., n, n), factorised.

    Args:
        inner: A, (s, s).
        slopes: dt ∂f/∂x at every substage.
    """

    def __init__(self, inner: Tensor, slopes: Tensor) -> None:
        count, size = len(inner), slopes.shape[-1]
        blocks = inner[:, None, :, None] * slopes.movedim(0, -2)[..., None, :, :, :]  # (..., i, row, j, column)
        eye = torch.eye(count * size, dtype=slopes.dtype, device=slopes.device)
        matrix = eye - blocks.reshape(*slopes.shape[1:-2], count * size, count * size)
        self._factors, self._pivots, _ = torch.linalg.lu_factor_ex(matrix)

    def solve(self, sides: Tensor, *, transposed: bool = False) -> Tensor:
        """Unknowns (s, ..., n, k) of sides of that shape, by the matrix or its transpose."""
        rows = sides.movedim(0, -3)
        found: Tensor = torch.linalg.lu_solve(self._factors, self._pivots, rows.flatten(-3, -2), adjoint=transposed)
        return found.reshape(rows.shape).movedim(-3, 0)


@final
@dataclass(frozen=True)
class ImplicitMethod:
    """A tableau and how often Newton's method is repeated on its equations at most.

    Attributes:
        table: coefficients.
        iterations: each one evaluation of all substages with the Jacobian of the rate, and one factorisation; one more
            looks whether the equations are solved.
    """

    table: ImplicitTableau
    iterations: int

    def substages(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> Tensor:
        """States y (s, ..., n) that solve the equations, without gradients; NaN at points where they are not solved."""
        return _Equations.of(self.table, flow, state.detach(), time.detach(), dt.detach()).root(self.iterations)[0]

    def step(self, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The next state and the cost, with the first and second derivatives of the equations' root.

        At the root, y ← y + M⁻¹ (x + dt A f(y) − y) with M held fixed returns y. It has the derivatives of y up to one
        order more than it is given: after two such steps up to the second, whatever Newton's method went through.
        """
        table = self.table
        places, coupled = _Equations.of(table, flow, state.detach(), time.detach(), dt.detach()).root(self.iterations)
        equations = _Equations.of(table, flow, state, time, dt)
        for _ in range(_ORDER):
            places = places + coupled.solve(equations.defect(places)[..., None])[..., 0]
        costs = flow(places, equations.times)[1]
        outer, onward = state.new_tensor(table.outer), state.new_tensor(table.onward)
        return state + summed(onward, places - state), dt * summed(outer, costs)


@final
@dataclass(frozen=True)
class _Equations:
    """The defect x + dt Σ_j a_ij f(y_j) − y_i of states y (s, ..., n) at the substages.

    Attributes:
        inner: A.
        flow: f.
        state: x, (..., n).
        times: of the substages, (s, ...).
        dt: (..., 1).
    """

    inner: Tensor
    flow: Flow
    state: Tensor
    times: Tensor
    dt: Tensor

    @staticmethod
    def of(table: ImplicitTableau, flow: Flow, state: Tensor, time: Tensor, dt: Tensor) -> "_Equations":
        """Of one step from states (..., n); time and dt (...) or ()."""
        nodes = state.new_tensor(table.nodes).reshape(-1, *[1] * (state.dim() - 1))
        times = (time + nodes * dt).expand(len(table.nodes), *state.shape[:-1])
        return _Equations(state.new_tensor(table.inner), flow, state, times, dt[..., None])

    def defect(self, places: Tensor) -> Tensor:
        """(s, ..., n)."""
        return self._missing(places, self.flow(places, self.times)[0])

    def root(self, iterations: int) -> tuple[Tensor, Coupled]:
        """Where the defect is zero, and the matrix M = 1 − A ⊗ dt ∂f/∂x there, both without gradients.

        A point counts as solved if the last iteration moved no component by more than ε^⅔ of its size, or what
        rounding does to the largest; elsewhere its states are NaN, which a search takes for a step too far. The loop
        ends where all points are solved: it branches on values, so that it is never part of compiled code.
        """
        places = self.state.expand(len(self.inner), *self.state.shape)
        for _ in range(iterations + 1):
            step, coupled = self._newton(places)
            solved = self._small(step, places)
            places = places + step
            if bool(solved.all()):
                break
        return torch.where(solved[..., None], places, torch.nan), coupled

    def _small(self, step: Tensor, places: Tensor) -> Tensor:
        """Whether a step of Newton's method is next to nothing, (...)."""
        number = torch.finfo(places.dtype)
        sizes = torch.maximum(places.abs().amax(0), self.state.abs())
        rounding = (_ROUNDING * number.eps * sizes.amax(-1, keepdim=True)).clamp(min=number.tiny)
        return (step.abs() <= torch.maximum(number.eps ** (2 / 3) * sizes, rounding)).all(-1).all(0)

    def _newton(self, places: Tensor) -> tuple[Tensor, Coupled]:
        local = Local(lambda each: self.flow(each, self.times)[0], places, places.shape[-1])
        coupled = Coupled(self.inner, self.dt[..., None] * local.jacobian())
        return coupled.solve(self._missing(places, local.values)[..., None])[..., 0], coupled

    def _missing(self, places: Tensor, rates: Tensor) -> Tensor:
        return self.state + self.dt * summed(self.inner, rates) - places


def summed(weights: Tensor, parts: Tensor) -> Tensor:
    """Σ_j weight_j part_j over substages (s, ...), for one row of weights or many."""
    total: Tensor = torch.tensordot(weights, parts, 1)
    return total

"""Stages to second order, put together from what is differentiated: a flow at one instant, a constraint, an end."""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from worldsheet.control.derivatives import Expansion, Local, expand, expand_one
from worldsheet.control.discretized import Discretised
from worldsheet.control.implicit import Coupled, ImplicitMethod, summed
from worldsheet.control.integrator import Tableau, mixed


def expand_stages(problem: Discretised, points: Tensor, weights: Tensor) -> Expansion:
    """(L, F, G) of every stage at points (B, N, nz + m), with weights (B, N, 1 + nz + p)."""
    carried = 1 + problem.size
    integrator = problem.integrator
    if integrator.tableau is not None:
        found = _Substages(problem, integrator.tableau, points).expand(weights[..., :carried])
    elif integrator.implicit is not None:
        found = _CoupledSubstages(problem, integrator.implicit, points).expand(weights[..., :carried])
    else:
        found = expand(problem.carried, points, weights[..., :carried])
    if problem.priced:
        found = _added(found, expand_one(problem.instant_cost, points), weights[..., :1])
    parts = [found]
    others = weights.shape[-1] - carried - problem.limits.count
    if others:
        chosen = weights[..., carried : carried + others]
        parts.append(expand(lambda each: problem.path(each)[0], points, chosen))
    if problem.limits.count:
        parts.append(_bounds(problem, points, weights[..., carried + others :]))
    if len(parts) == 1:
        return found
    return Expansion(
        torch.cat([part.values for part in parts], -1),
        torch.cat([part.jacobian for part in parts], -2),
        torch.stack([part.gradient for part in parts]).sum(0),
        found.hessian if not others else found.hessian + parts[1].hessian,
    )


def _added(stage: Expansion, cost: Expansion, weight: Tensor) -> Expansion:
    """With one more cost, (..., 1), whose weight is (..., 1)."""
    count = stage.values.shape[-1] - 1
    return Expansion(
        stage.values + torch.nn.functional.pad(cost.values, (0, count)),
        stage.jacobian + torch.nn.functional.pad(cost.jacobian, (0, 0, 0, count)),
        stage.gradient + weight * cost.gradient,
        stage.hessian + weight[..., None] * cost.hessian,
    )


def expand_end(problem: Discretised, states: Tensor, weights: Tensor) -> Expansion:
    """(φ, ψ) at the end (B, nz), with weights (B, 1 + k)."""
    if weights.shape[-1] > 1:
        return expand(problem.end, states, weights)
    found = expand_one(problem.end, states)
    return replace(found, gradient=weights * found.gradient, hessian=weights[..., None] * found.hessian)


def _bounds(problem: Discretised, points: Tensor, weights: Tensor) -> Expansion:
    """Linear, so that nothing is differentiated."""
    size = problem.size
    rows = problem.limits.slopes(size, points.shape[-1] - size)
    values = torch.cat(problem.limits.excess(points[..., size:]), -1)
    pushed = weights @ rows if rows.dim() == 2 else (weights[..., None, :] @ rows)[..., 0, :]
    return Expansion(values, rows.expand(*points.shape[:-1], -1, -1), pushed, points.new_zeros(()))


@final
class _Substages:
    """The substages of an explicit Runge–Kutta method: the flow is expanded at all of them at once, chained in between.

    With y_i = (x_i, u) and D_i = ∂y_i/∂w, a stage's Hessian is Σ_i D_iᵀ (∇² μ_iᵀk_i) D_i, where μ_i is what rate k_i
    is worth: costates over a stage, once more relaxed from the end to the start.
    """

    def __init__(self, problem: Discretised, table: Tableau, points: Tensor) -> None:
        self._table, self._size, self._points = table, problem.size, points
        rates: list[Tensor] = []
        with torch.no_grad():
            for row, node in zip(table.inner[:-1], table.nodes[:-1], strict=True):
                rates.append(problem.rates(self._place(row, rates), node))
            places = torch.stack([self._place(row, rates[:i]) for i, row in enumerate(table.inner)])
        nodes = points.new_tensor(table.nodes).view(-1, 1, 1)
        self._local = Local(lambda each: problem.rates(each, nodes), places, problem.size + 1)

    def _place(self, row: tuple[float, ...], rates: list[Tensor]) -> Tensor:
        if not row:
            return self._points
        size = self._size
        return torch.cat((self._points[..., :size] + mixed(row, rates)[..., :size], self._points[..., size:]), -1)

    def expand(self, weights: Tensor) -> Expansion:
        """(L, F) with weights (..., 1 + nz)."""
        table, size = self._table, self._size
        slopes = self._local.jacobian()
        turned = torch.cat((weights[..., 1:], weights[..., :1]), -1)  # a rate has the cost last
        if len(slopes) == 1:
            carried, worth, moved = slopes[0], turned[None], None
        else:
            chained, moved = self._chained(slopes)
            carried, worth = mixed(table.outer, chained), self._worth(slopes, turned)
        _, hessian = self._local.curvature(worth)
        hessian = hessian[0] if moved is None else hessian[0] + (moved.mT @ hessian[1:] @ moved).sum(0)
        total = mixed(table.outer, list(self._local.values))
        values = torch.cat((total[..., size:], self._points[..., :size] + total[..., :size]), -1)
        jacobian = torch.cat((carried[..., size:, :], carried[..., :size, :] + _onto(carried, size)), -2)
        return Expansion(values, jacobian, (weights[..., None, :] @ jacobian)[..., 0, :], hessian)

    def _chained(self, slopes: Tensor) -> tuple[list[Tensor], Tensor]:
        """∂k_i/∂w of all substages, and D_i of all but the first, where it is the identity."""
        size, table = self._size, self._table
        found, moved = [slopes[0]], []
        eye = torch.eye(slopes.shape[-1], dtype=slopes.dtype, device=slopes.device)
        for row, slope in zip(table.inner[1:], slopes[1:], strict=True):
            place = torch.nn.functional.pad(mixed(row, found)[..., :size, :], (0, 0, 0, slopes.shape[-1] - size))
            moved.append(place + eye)
            found.append(slope @ moved[-1])
        return found, torch.stack(moved)

    def _worth(self, slopes: Tensor, weights: Tensor) -> Tensor:
        """μ_i = b_i (λ, 1) + Σ_{j>i} a_ji (∂k_j/∂x)ᵀ μ_j."""
        table = self._table
        found: list[Tensor] = []
        for i in range(len(slopes) - 1, -1, -1):
            worth = table.outer[i] * weights
            later = [table.inner[j][i] for j in range(len(slopes) - 1, i, -1)]
            if any(later):
                worth = worth + torch.nn.functional.pad(mixed(tuple(later), self._pulled(slopes, found)), (0, 1))
            found.append(worth)
        return torch.stack(found[::-1])

    def _pulled(self, slopes: Tensor, found: list[Tensor]) -> list[Tensor]:
        """(∂k_j/∂x)ᵀ μ_j of the last substages, the last first."""
        columns = slopes[..., : self._size]
        return [(worth[..., None, :] @ columns[-1 - j])[..., 0, :] for j, worth in enumerate(found)]


@final
class _CoupledSubstages:
    """The substages of an implicit Runge–Kutta method: the flow is expanded where they solve their equations.

    With y_i = x + Σ_j a_ij k_j(y_j, u) and D_i = ∂(y_i, u)/∂w, the theorem of implicit functions gives

        (1 − A ⊗ ∂k/∂x) ∂y/∂w = ∂x/∂w + A ∂k/∂u ∂u/∂w,     (1 − A ⊗ ∂k/∂x)ᵀ ν = (∂k/∂x)ᵀ b (λ, 1),

    and the Hessian is Σ_i D_iᵀ (∇² μ_iᵀk_i) D_i as for an explicit method, with μ_i = b_i (λ, 1) + Σ_j a_ji ν_j.
    """

    def __init__(self, problem: Discretised, method: ImplicitMethod, points: Tensor) -> None:
        table = method.table
        self._size, self._points = problem.size, points
        self._inner, self._outer = points.new_tensor(table.inner), points.new_tensor(table.outer)
        self._onward = points.new_tensor(table.onward)
        self._places = problem.substages(method, points)
        nodes = points.new_tensor(table.nodes).view(-1, 1, 1)
        self._local = Local(lambda each: problem.rates(each, nodes), self._places, problem.size + 1)

    def expand(self, weights: Tensor) -> Expansion:
        """(L, F) with weights (..., 1 + nz)."""
        size, slopes = self._size, self._local.jacobian()
        coupled = Coupled(self._inner, slopes[..., :size, :size])
        moved = self._moved(coupled, slopes)
        _, hessian = self._local.curvature(self._worth(coupled, slopes, weights))
        eye = torch.eye(moved.shape[-1], dtype=moved.dtype, device=moved.device)
        state = self._points[..., :size]
        following = state + summed(self._onward, self._places[..., :size] - state)
        carried = eye[:size] + summed(self._onward, moved[..., :size, :] - eye[:size])
        cost, costing = self._local.values[..., size:], slopes[..., size:, :] @ moved
        jacobian = torch.cat((summed(self._outer, costing), carried), -2)
        return Expansion(
            torch.cat((summed(self._outer, cost), following), -1),
            jacobian,
            (weights[..., None, :] @ jacobian)[..., 0, :],
            (moved.mT @ hessian @ moved).sum(0),
        )

    def _moved(self, coupled: Coupled, slopes: Tensor) -> Tensor:
        """D of every substage, (s, B, N, nz + m, nz + m)."""
        size, width = self._size, slopes.shape[-1]
        eye = torch.eye(width, dtype=slopes.dtype, device=slopes.device)
        steered = torch.nn.functional.pad(slopes[..., :size, size:], (size, 0))
        states = coupled.solve(eye[:size] + summed(self._inner, steered))
        return torch.cat((states, eye[size:].expand(*states.shape[:-2], -1, -1)), -2)

    def _worth(self, coupled: Coupled, slopes: Tensor, weights: Tensor) -> Tensor:
        """What every rate is worth, (s, B, N, nz + 1)."""
        turned = torch.cat((weights[..., 1:], weights[..., :1]), -1)  # a rate has the cost last
        direct = self._outer.view(-1, 1, 1, 1) * turned
        through = coupled.solve(slopes[..., : self._size].mT @ direct[..., None], transposed=True)[..., 0]
        return direct + torch.nn.functional.pad(summed(self._inner.T, through), (0, 1))


def _onto(like: Tensor, size: int) -> Tensor:
    """∂x/∂w = [1 0]."""
    return torch.eye(size, like.shape[-1], dtype=like.dtype, device=like.device)

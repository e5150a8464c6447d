"""A layer that is its own input: a state at rest under a map, and the adjoint that rests under its transpose."""

from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite
from typing import final

import torch
from torch import Tensor, nn

from worldsheet.core.errors import InputError, RelaxationError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.types import Costate, Point, State
from worldsheet.layers.evaluation import Recorded
from worldsheet.layers.layer import ModuleInfo

_ALONE = ModuleInfo(parameters=(), buffers=False, random=False, foreign=True, watched=False, steps=None, mappable=None)


@final
class Equilibrium(nn.Module):
    """A recurrent layer at rest: z = f(z, x), and its own costate at rest, μ = J_zᵀ μ + λ.

        z ← z + η (f(z, x) − z),    μ ← μ + η (J_zᵀ μ + λ − μ),    J_xᵀ μ and (∂f/∂θ)ᵀ μ go out      (31)

    A site with an edge to itself, relaxed as any site is by (7): the state first, then, each time a credit λ comes from
    above, the adjoint, at one pull-back of f a tick. No history is kept: memory is that of one evaluation of f. The
    gradient is implicit differentiation's, λᵀ(1 − J_z)⁻¹ J_x. f is evaluated many times and must be pure: no dropout
    and no batch statistics.

    η = 1 converges where f contracts, max |eigenvalue of J_z| < 1; a smaller η also where eigenvalues are real and
    negative, down to −2/η + 1.

    Args:
        module: f, called with z and x; returns a tensor of z's shape.
        shape: of z, the batch left out; by default that of x.
        rate: η.
        tol: relative residual ‖f(z, x) − z‖/‖f(z, x)‖ at which the state, and likewise the adjoint, is at rest; by
            default 64 times the rounding of its dtype.
        max_ticks: budget for each.

    Attributes:
        outcome: how the last state was reached; None before the first.

    Raises:
        InputError: a rate outside (0, 2), a tolerance or budget that is not positive.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        shape: tuple[int, ...] | None = None,
        rate: float = 1.0,
        tol: float | None = None,
        max_ticks: int = 500,
    ) -> None:
        super().__init__()
        if not 0 < rate < 2 or not (tol is None or tol > 0) or max_ticks < 1:
            raise InputError(
                "Equilibrium: rate must be between 0 and 2, tol positive and max_ticks at least 1, "
                f"got rate={rate}, tol={tol}, max_ticks={max_ticks}",
                "a rate between 0 and 2, a positive tolerance, at least one tick",
                "leave them out: rate=1, the rounding of the dtype, 500 ticks",
            )
        self.module = module
        self.shape = shape
        self.rate = rate
        self.tol = tol
        self.max_ticks = max_ticks
        self.outcome: Outcome | None = None

    def forward(self, x: Point) -> State:
        """The state at rest.

        Raises:
            RelaxationError: no rest within the budget, of the state or, when pulled back through, of the adjoint.
        """
        start = x.new_zeros((x.shape[0], *self.shape)) if self.shape is not None else torch.zeros_like(x)
        with torch.no_grad():
            rest = self._settled(lambda z: self.module(z, x), start, "state")
        if not torch.is_grad_enabled():
            return rest
        once: State = self.module(rest, x)
        if once.requires_grad:
            once.register_hook(lambda credit: self._adjoint(rest, x.detach(), credit))  # type: ignore[no-untyped-call]
        return once

    def _adjoint(self, rest: State, x: Point, credit: Costate) -> Costate:
        """The adjoint at rest under the transpose of f's derivative at z."""
        once = Recorded(lambda z: self.module(z, x), [rest], [True], _ALONE)

        def pulled(mu: Costate) -> Costate:
            (found,) = once.pull(mu, effort=False, keep=True).inputs
            return credit if found is None else found + credit

        return self._settled(pulled, credit, "adjoint")

    def _settled(self, step: Callable[[Tensor], Tensor], start: Tensor, field: str) -> Tensor:
        """Relax one field of (31) until it rests."""
        value, residual, tick = start, inf, 0
        tol = self.tol
        while tick < self.max_ticks and (tol is None or residual > tol):
            tick += 1
            message = step(value)
            if message.shape != value.shape:
                raise InputError(
                    f"Equilibrium: the map returned shape {tuple(message.shape)} for a first argument of shape "
                    f"{tuple(value.shape)}",
                    "a map that returns the shape of its first argument",
                    "give shape=, the shape of z without the batch, or change the map's last layer",
                )
            residual = float(torch.linalg.vector_norm(message - value))
            residual /= float(torch.linalg.vector_norm(message)) or 1.0
            value = message if self.rate == 1 else value.lerp(message, self.rate)
            if tol is None:
                tol = 64 * torch.finfo(message.dtype).eps
        self.outcome = _outcome(tick, residual, tol or 0.0)
        if not self.outcome.converged:
            raise RelaxationError(
                f"Equilibrium: the {field} has not settled ({replace(self.outcome, remedy='')})",
                "a map that contracts, or a larger budget",
                self.outcome.remedy,
            )
        return value


def _outcome(ticks: int, residual: float, tol: float) -> Outcome:
    remedy = "the map does not contract: scale its recurrent weights down to a norm below 1, or use a smaller rate"
    if not isfinite(residual) or residual > 0.1:
        return Outcome(Status.DIVERGED, ticks, residual, remedy)
    if residual <= tol:
        return Outcome(Status.CONVERGED, ticks, residual)
    return Outcome(Status.BUDGET_SPENT, ticks, residual, "raise max_ticks or tol; or " + remedy)

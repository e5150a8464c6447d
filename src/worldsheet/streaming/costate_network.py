"""Costates forward in time by Riccati's equation turned around, exact for linear-quadratic problems."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from worldsheet.core.errors import InputError
from worldsheet.streaming.derivatives import gradients, output_jacobians


@final
@dataclass(frozen=True)
class LinearQuadratic:
    """ẋ = A x + B u with the cost ∫ ½ (xᵀQ x + uᵀR u) dt, whose costate is λ = P x.

    Args:
        A: (n, n).
        B: (n, m).
        Q: (n, n), symmetric.
        R: (m, m), symmetric and positive.

    Raises:
        InputError: matrices that do not fit each other.
    """

    A: Tensor
    B: Tensor
    Q: Tensor
    R: Tensor

    def __post_init__(self) -> None:
        """Refuse matrices that do not fit."""
        n, m = self.B.shape
        shapes = [tuple(matrix.shape) for matrix in (self.A, self.Q, self.R)]
        if shapes != [(n, n), (n, n), (m, m)]:
            raise InputError(
                f"A, Q and R have shapes {shapes}, which do not fit B of shape {(n, m)}",
                f"shapes {(n, n)}, {(n, n)} and {(m, m)}",
                "check that B has one row per state and one column per control",
            )

    @property
    def answer(self) -> Float[Tensor, "n n"]:
        """B R⁻¹ Bᵀ, which turns a costate into −B u."""
        product: Tensor = self.B @ torch.linalg.solve(self.R, self.B.T)
        return product

    def velocity(self, state: Tensor, costate: Tensor) -> Tensor:
        """ẋ = A x − B R⁻¹ Bᵀ p."""
        return self.A @ state - self.answer @ costate

    def force(self, state: Tensor, costate: Tensor) -> Tensor:
        """∂H/∂x = Q x + Aᵀ p, so that Hamilton's ṗ is s = −1 times this, and the flipped one s = +1 times this."""
        return self.Q @ state + self.A.T @ costate

    def running_cost(self, state: Tensor, costate: Tensor) -> Tensor:
        """½ (xᵀQ x + uᵀR u) for the control that the costate asks for."""
        return (state @ self.Q @ state + costate @ self.answer @ costate) / 2

    def reversed_riccati(self, P: Float[Tensor, "n n"], dt: float) -> Float[Tensor, "n n"]:
        """One step of Ṗ = Q + AᵀP + P A − P B R⁻¹ Bᵀ P forward in time, by Runge and Kutta's fourth order.

        The optimal P obeys −Ṗ = … backwards from the end of time. Turned around it needs initial data only, and tends
        to the same stabilising solution: exact for an infinite horizon once it has settled.
        """

        def rate(at: Tensor) -> Tensor:
            return self.Q + self.A.T @ at + at @ self.A - at @ self.answer @ at

        first = rate(P)
        second = rate(P + dt / 2 * first)
        third = rate(P + dt / 2 * second)
        return P + dt / 6 * (first + 2 * second + 2 * third + rate(P + dt * third))


@final
class CostateNetwork:
    """A costate that is a small network of the state, p = γ(x; ω), with ω moving as the flow needs it.

    Along ẋ = ∂H/∂p the costate would have to obey γ_ω ω̇ + γ_x ẋ = −∂H/∂x, from the end of time. Turned around,

        γ_ω ω̇ = ∂H/∂x + γ_x ẋ − θ γ                                                            (6f)

    starts from the beginning. ω̇ is the shortest damped least-squares solution over the points that are looked at. For
    γ = P x, H linear-quadratic and θ = 0, (6f) is Riccati's equation turned around.

    Cost per step: the Jacobian of γ in ω at every point, and one solution of as many equations as costates and points.

    Args:
        hamiltonian: H(x, p, t) of one state and costate, its control eliminated; differentiable.
        network: γ from a state to a costate.
        damping: added to the diagonal of the normal equations, relative to their mean.
        dissipation: θ, where the cost is weighted with e^{θt} and p is divided by it.
        around: offsets (k, n) of further points at which the equation is asked to hold, beside the state itself.

    Raises:
        InputError: damping that is not positive.

    Reference:
        Betti et al., Neural Time-Reversed Generalized Riccati Equation, arXiv 2312.09310; (6f) is derived.
    """

    def __init__(
        self,
        hamiltonian: Callable[[Tensor, Tensor, Tensor], Tensor],
        network: nn.Module,
        damping: float = 1e-6,
        dissipation: float = 0.0,
        around: Tensor | None = None,
    ) -> None:
        if not damping > 0:
            raise InputError(
                f"CostateNetwork: damping must be positive, got {damping}", "a number above 0", "try damping=1e-6"
            )
        self._hamiltonian = hamiltonian
        self._network = network
        self._damping = damping
        self._dissipation = dissipation
        self._around = around
        self.weights = {name: value.detach().clone() for name, value in network.named_parameters()}

    def costate(self, state: Tensor) -> Tensor:
        """The costate p = γ(x; ω)."""
        found: Tensor = functional_call(self._network, self.weights, (state,))
        return found.detach()

    def slopes(self, state: Tensor, costate: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """∂H/∂x and ∂H/∂p."""
        clock = state.new_tensor(time)
        force, velocity = gradients(lambda x, p: self._hamiltonian(x, p, clock), state, costate)
        return force, velocity

    @torch.no_grad()
    def step(self, state: Tensor, time: float, dt: float) -> Tensor:
        """Move ω by (6f) at a state, and return where Euler's step takes the state."""
        points = [state] if self._around is None else [state, *(state + self._around)]
        rows, wanted = [], []
        for point in points:
            costate = self.costate(point)
            force, velocity = self.slopes(point, costate, time)
            by_weight, by_state = output_jacobians(self._network, self.weights, point)
            rows.append(by_weight)
            wanted.append(force + by_state @ velocity - self._dissipation * costate)
        moved = state + dt * self.slopes(state, self.costate(state), time)[1]
        self._turn(torch.cat(rows), torch.cat(wanted), dt)
        return moved

    def _turn(self, jacobian: Tensor, wanted: Tensor, dt: float) -> None:
        """ω ← ω + dt · the shortest solution."""
        normal = jacobian @ jacobian.T
        normal.diagonal().add_(self._damping * normal.diagonal().mean())
        rate = jacobian.T @ torch.linalg.solve(normal, wanted)
        first = 0
        for name, value in self.weights.items():
            self.weights[name] = value + dt * rate[first : first + value.numel()].view_as(value)
            first += value.numel()

"""Control problems for tests: random linear ones, and the Riccati recursion written the way a textbook writes it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import worldsheet as ws

DOUBLE = torch.float64


@dataclass(frozen=True)
class Linear:
    """x⁺ = A x + B u, cost ½ Σ (xᵀQx + uᵀRu) + ½ x_NᵀPx_N, from x_0."""

    A: Tensor
    B: Tensor
    Q: Tensor
    R: Tensor
    P: Tensor
    start: Tensor
    steps: int

    @property
    def problem(self) -> ws.control.Problem:
        def quadratic(matrix: Tensor, x: Tensor) -> Tensor:
            return 0.5 * (x * (x @ matrix)).sum(-1)

        return ws.control.Problem(
            dynamics=lambda x, u, t: x @ self.A.T + u @ self.B.T,
            running_cost=lambda x, u, t: quadratic(self.Q, x) + quadratic(self.R, u),
            terminal_cost=lambda x: quadratic(self.P, x),
            initial_state=self.start,
            control_size=self.B.shape[1],
            steps=self.steps,
            integrator=ws.control.Discrete(),
        )

    def riccati(self) -> tuple[Tensor, Tensor, Tensor]:
        """States, costates and controls by the recursion in its textbook form, with explicit inverses."""
        value, values, gains = self.P, [self.P], []
        for _ in range(self.steps):
            gain = torch.linalg.inv(self.R + self.B.T @ value @ self.B) @ self.B.T @ value @ self.A
            value = self.Q + self.A.T @ value @ (self.A - self.B @ gain)
            value = (value + value.T) / 2
            values.append(value)
            gains.append(gain)
        states, controls = [self.start], []
        for gain in reversed(gains):
            controls.append(-states[-1] @ gain.T)
            states.append(states[-1] @ self.A.T + controls[-1] @ self.B.T)
        costates = [x @ matrix for x, matrix in zip(states, reversed(values), strict=True)]
        return torch.stack(states, -2), torch.stack(costates, -2), torch.stack(controls, -2)


def linear(size: int, controls: int, steps: int, radius: float, seed: int = 0, batch: tuple[int, ...] = ()) -> Linear:
    """A random system whose largest eigenvalue has the given size: unstable above 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=DOUBLE, generator=generator)

    A = draw(size, size)
    A = A * radius / torch.linalg.eigvals(A).abs().max()
    factor = draw(size, size) / size**0.5
    return Linear(
        A,
        draw(size, controls),
        factor @ factor.T + 0.1 * torch.eye(size, dtype=DOUBLE),
        torch.eye(controls, dtype=DOUBLE) * 0.5,
        torch.eye(size, dtype=DOUBLE),
        draw(*batch, size),
        steps,
    )


def double_integrator(steps: int, dt: float = 0.05, batch: Tensor | None = None) -> ws.control.Problem:
    """A mass on a line, cost ½∫(x² + v² + u²) + ½|x_N|², explicit Euler."""
    return ws.control.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], u[..., 0]), -1),
        running_cost=lambda x, u, t: 0.5 * (x.square().sum(-1) + u.square().sum(-1)),
        terminal_cost=lambda x: 0.5 * x.square().sum(-1),
        initial_state=torch.tensor([1.0, 0.0], dtype=DOUBLE) if batch is None else batch,
        control_size=1,
        steps=steps,
        dt=dt,
        integrator=ws.control.ExplicitEuler(),
    )


def pendulum(
    initial: Tensor,
    steps: int = 20,
    integrator: ws.control.Integrator | None = None,
    bounds: tuple[float, float] | None = None,
) -> ws.control.Problem:
    """A pendulum pushed towards the top for a second: nonlinear, not convex everywhere."""
    return ws.control.Problem(
        dynamics=lambda x, u, t: torch.stack((x[..., 1], -9.81 * x[..., 0].sin() + u[..., 0]), -1),
        running_cost=lambda x, u, t: x.square().sum(-1) + 0.05 * u[..., 0].square() + 0.1 * t * u[..., 0],
        terminal_cost=lambda x: 5 * x.square().sum(-1),
        initial_state=initial,
        control_size=1,
        steps=steps,
        dt=0.05,
        integrator=integrator or ws.control.RK4(),
        bounds=bounds,
    )


def close(mine: Tensor, theirs: Tensor, tol: float) -> None:
    """Relative to the largest entry."""
    error = float((mine - theirs).detach().abs().max())
    scale = float(theirs.abs().max().clamp(min=1.0))
    assert error <= tol * scale, f"{error} on a scale of {scale}"


def bounded(problem: ws.control.Problem, limit: float = 0.4) -> ws.control.Problem:
    """The same problem with |u| ≤ limit."""
    return replace(problem, bounds=(-limit, limit))

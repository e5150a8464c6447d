"""Optimal control problems that everyone knows, each written once: dynamics and costs on batched tensors."""

from math import pi

import torch
from torch import Tensor

from worldsheet.control import RK4, ExplicitEuler, FreeDuration, Guess, Problem


def squares(x: Tensor, weights: tuple[float, ...], target: tuple[float, ...]) -> Tensor:
    """Σ w_i (x_i − target_i)²."""
    return (x.new_tensor(weights) * (x - x.new_tensor(target)).square()).sum(-1)


def rolled_out(problem: Problem) -> Guess:
    """Where no control leads."""
    return Guess()


def pendulum(initial: Tensor) -> Problem:
    """Swing up a damped pendulum by a torque: 60 stages of 0.05 s, explicit Euler."""

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        angle, speed = x.unbind(-1)
        return torch.stack((speed, -9.81 * angle.sin() - 0.1 * speed + u[..., 0]), -1)

    def running(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        angle, speed = x.unbind(-1)
        return 0.1 * (angle - pi).square() + 0.01 * speed.square() + 0.05 * u[..., 0].square()

    def terminal(x: Tensor) -> Tensor:
        angle, speed = x.unbind(-1)
        return 10 * ((angle - pi).square() + speed.square())

    return Problem(
        dynamics=dynamics,
        running_cost=running,
        terminal_cost=terminal,
        initial_state=initial,
        control_size=1,
        steps=60,
        dt=0.05,
        integrator=ExplicitEuler(),
    )


def cartpole(initial: Tensor) -> Problem:
    """Swing up a pole on a cart by a bounded force: 100 stages of 0.03 s, RK4; pole 1 kg, 0.5 m, cart 1 kg."""
    gravity, length, pole, cart = 9.81, 0.5, 0.3, 1.0

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        _, angle, speed, turning = x.unbind(-1)
        sine, cosine = angle.sin(), angle.cos()
        mass = cart + pole * sine.square()
        pushed = u[..., 0] + pole * sine * (length * turning.square() + gravity * cosine)
        turned = -u[..., 0] * cosine - pole * length * turning.square() * cosine * sine - (cart + pole) * gravity * sine
        return torch.stack((speed, turning, pushed / mass, turned / (length * mass)), -1)

    def running(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return squares(x, (0.1, 0.5, 0.01, 0.01), (0.0, pi, 0.0, 0.0)) + 0.01 * u[..., 0].square()

    def terminal(x: Tensor) -> Tensor:
        return squares(x, (20.0, 40.0, 5.0, 5.0), (0.0, pi, 0.0, 0.0))

    return Problem(
        dynamics=dynamics,
        running_cost=running,
        terminal_cost=terminal,
        initial_state=initial,
        control_size=1,
        steps=100,
        dt=0.03,
        bounds=(-15.0, 15.0),
    )


def bangbang(initial: Tensor) -> Problem:
    """Bring a mass to rest at the origin in the least time with |force| ≤ 1: free final time, 60 stages."""

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return torch.stack((x[..., 1], u[..., 0]), -1)

    return Problem(
        dynamics=dynamics,
        running_cost=lambda x, u, t: 1 + 0 * x[..., 0],
        terminal_constraint=lambda x: x,
        initial_state=initial,
        control_size=1,
        steps=60,
        duration=FreeDuration(2.0),
        bounds=(-1.0, 1.0),
    )


def vanderpol(initial: Tensor) -> Problem:
    """Calm a van der Pol oscillator with −0.75 ≤ u ≤ 1: 100 stages of 0.1 s, RK4."""

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        first, second = x.unbind(-1)
        return torch.stack(((1 - second.square()) * first - second + u[..., 0], first), -1)

    return Problem(
        dynamics=dynamics,
        running_cost=lambda x, u, t: x.square().sum(-1) + u[..., 0].square(),
        initial_state=initial,
        control_size=1,
        steps=100,
        dt=0.1,
        bounds=(-0.75, 1.0),
    )


def rocket(initial: Tensor) -> Problem:
    """Goddard's rocket in units of its own: reach the greatest height with bounded thrust, free final time, 80 stages.

    States are height, speed and mass; drag 310 v² exp(−500 (h − 1)), gravity 1/h², thrust up to 3.5, all fuel gone at
    mass 0.6.
    """

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        height, speed, mass = x.unbind(-1)
        drag = 310 * speed.square() * (-500 * (height - 1)).exp()
        return torch.stack((speed, (u[..., 0] - drag) / mass - height**-2, -2 * u[..., 0]), -1)

    return Problem(
        dynamics=dynamics,
        running_cost=lambda x, u, t: 1e-6 * u[..., 0].square(),
        terminal_cost=lambda x: -x[..., 0],
        terminal_constraint=lambda x: x[..., 2:] - 0.6,
        initial_state=initial,
        control_size=1,
        steps=80,
        duration=FreeDuration(0.2),
        bounds=(0.0, 3.5),
    )


def coasting(problem: Problem) -> Guess:
    """Even thrust that burns the fuel."""
    return Guess(controls=problem.initial_state.new_ones((*problem.batch, problem.steps, 1)))


def quadrotor(initial: Tensor) -> Problem:
    """Fly a quadrotor from a point to hover at the origin: n = 12, m = 4 bounded rotor thrusts, 50 stages of 0.05 s."""
    gravity, mass, arm, inertia, drag = 9.81, 1.0, 0.2, (0.01, 0.01, 0.02), 0.02

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        roll, pitch, yaw = x[..., 3], x[..., 4], x[..., 5]
        p, q, r = x[..., 9], x[..., 10], x[..., 11]
        sr, cr, sp, cp, sy, cy = roll.sin(), roll.cos(), pitch.sin(), pitch.cos(), yaw.sin(), yaw.cos()
        lift = u.sum(-1) / mass
        force = torch.stack(
            (lift * (cr * sp * cy + sr * sy), lift * (cr * sp * sy - sr * cy), lift * cr * cp - gravity), -1
        )
        tangent = sp / cp
        turning = torch.stack((p + (q * sr + r * cr) * tangent, q * cr - r * sr, (q * sr + r * cr) / cp), -1)
        torque = torch.stack(
            (
                (arm * (u[..., 1] - u[..., 3]) + (inertia[1] - inertia[2]) * q * r) / inertia[0],
                (arm * (u[..., 2] - u[..., 0]) + (inertia[2] - inertia[0]) * p * r) / inertia[1],
                (drag * (u[..., 0] - u[..., 1] + u[..., 2] - u[..., 3]) + (inertia[0] - inertia[1]) * p * q)
                / inertia[2],
            ),
            -1,
        )
        return torch.cat((x[..., 6:9], turning, force, torque), -1)

    hover = gravity * mass / 4
    state_weights = (2.0,) * 3 + (0.5,) * 3 + (0.2,) * 3 + (0.1,) * 3

    def running(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return squares(x, state_weights, (0.0,) * 12) + 0.1 * (u - hover).square().sum(-1)

    return Problem(
        dynamics=dynamics,
        running_cost=running,
        terminal_cost=lambda x: squares(x, tuple(20 * w for w in state_weights), (0.0,) * 12),
        initial_state=initial,
        control_size=4,
        steps=50,
        dt=0.05,
        integrator=RK4(),
        bounds=(0.0, 6.0),
    )


def hovering(problem: Problem) -> Guess:
    """The thrust that holds the weight."""
    return Guess(controls=problem.initial_state.new_full((*problem.batch, problem.steps, 4), 9.81 / 4))


def obstacle(initial: Tensor) -> Problem:
    """Drive a unicycle-free mass around a disc to a point: n = 4, 60 stages of 0.05 s, a path constraint."""

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return torch.cat((x[..., 2:], u), -1)

    def outside(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return (0.5**2 - (x[..., 0] - 1).square() - (x[..., 1] - 1).square())[..., None]

    return Problem(
        dynamics=dynamics,
        running_cost=lambda x, u, t: 0.05 * u.square().sum(-1),
        terminal_cost=lambda x: squares(x, (50.0, 50.0, 5.0, 5.0), (2.0, 2.0, 0.0, 0.0)),
        initial_state=initial,
        control_size=2,
        steps=60,
        dt=0.05,
        bounds=(-4.0, 4.0),
        path_constraint=outside,
    )


def straight(problem: Problem) -> Guess:
    """A line to the goal, which cuts the disc off centre."""
    start = problem.initial_state
    goal = start.new_tensor((2.0, 2.0, 0.0, 0.0))
    part = torch.linspace(0, 1, problem.steps + 1, dtype=start.dtype)[:, None]
    bulge = (pi * part).sin() * start.new_tensor((0.3, -0.3, 0.0, 0.0))
    return Guess(states=start[..., None, :] * (1 - part) + goal * part + bulge)

"""Optimal control: states and costates over time instead of depth, relaxed by counter-propagating waves."""

from worldsheet.control.execution import Compiled, Eager, Execution
from worldsheet.control.history import History
from worldsheet.control.integrator import RK4, Discrete, ExplicitEuler, ImplicitMidpoint, Integrator
from worldsheet.control.iterate import Residuals
from worldsheet.control.mpc import MPC, Loop
from worldsheet.control.problem import FreeDuration, Problem
from worldsheet.control.solution import Solution
from worldsheet.control.solve import solve
from worldsheet.control.start import Guess
from worldsheet.control.sweep import ForwardBackwardSweep

__all__ = [
    "MPC",
    "RK4",
    "Compiled",
    "Discrete",
    "Eager",
    "Execution",
    "ExplicitEuler",
    "ForwardBackwardSweep",
    "FreeDuration",
    "Guess",
    "History",
    "ImplicitMidpoint",
    "Integrator",
    "Loop",
    "Problem",
    "Residuals",
    "Solution",
    "solve",
]

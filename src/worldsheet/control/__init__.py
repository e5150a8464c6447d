"""Optimal control: states and costates over time instead of depth, relaxed by counter-propagating waves."""

from worldsheet.control.compiled.compiling import Compiled
from worldsheet.control.compiled.execution import Eager, Execution
from worldsheet.control.integrator import RK4, Discrete, ExplicitEuler, ImplicitMidpoint, Integrator, RadauIIA
from worldsheet.control.limits import PathLimit, PathLimits, Price
from worldsheet.control.methods.forward_backward import ForwardBackwardSweep
from worldsheet.control.methods.history import History
from worldsheet.control.methods.initial_guess import Guess
from worldsheet.control.methods.iterate import Residuals
from worldsheet.control.mhe import MHE, Arrival, Estimate
from worldsheet.control.mpc import MPC, Loop, Move, RealTimeIteration
from worldsheet.control.multipliers import Multipliers
from worldsheet.control.problem import FreeDuration, Problem, Unknowns
from worldsheet.control.shrinking import Leg, ShrinkingHorizon
from worldsheet.control.solution import Trajectory
from worldsheet.control.solve import Solver, solve

__all__ = [
    "MHE",
    "MPC",
    "RK4",
    "Arrival",
    "Compiled",
    "Discrete",
    "Eager",
    "Estimate",
    "Execution",
    "ExplicitEuler",
    "ForwardBackwardSweep",
    "FreeDuration",
    "Guess",
    "History",
    "ImplicitMidpoint",
    "Integrator",
    "Leg",
    "Loop",
    "Move",
    "Multipliers",
    "PathLimit",
    "PathLimits",
    "Price",
    "Problem",
    "RadauIIA",
    "RealTimeIteration",
    "Residuals",
    "ShrinkingHorizon",
    "Solver",
    "Trajectory",
    "Unknowns",
    "solve",
]

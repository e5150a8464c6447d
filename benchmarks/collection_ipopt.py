"""The collection's problems for IPOPT: the very functions that PyTorch evaluates, discretised in the same way."""

from math import inf
from typing import Any, TypeAlias

import casadi as ca

from benchmarks.ipopt import EULER, RK4, Answer, Explicit, Ipopt, Midpoint, Model, Radau, Start
from worldsheet import control
from worldsheet.control import FreeDuration, Integrator, solve
from worldsheet.core.errors import InputError
from worldsheet_lab.control.collection import Case
from worldsheet_lab.control.collection.scalars import Vector

# A point that is only acceptable is none, limits are not widened, and steps out of the functions' domains are no news.
_STRICT = {
    "ipopt.constr_viol_tol": 1e-10,
    "ipopt.acceptable_iter": 0,
    "ipopt.bound_relax_factor": 0.0,
    "show_eval_warnings": False,
}
_MAX_ITERATIONS = 1000

Theirs: TypeAlias = Explicit | Midpoint | Radau

_INTEGRATORS: tuple[tuple[type[Integrator], Theirs], ...] = (
    (control.ExplicitEuler, EULER),
    (control.RK4, RK4),
    (control.ImplicitMidpoint, Midpoint()),
)


def ipopt(case: Case, tol: float) -> Answer:
    """From the default guess, as our own search lays it out."""
    begun = solve(case.problem(), max_ticks=0)
    start = Start(begun.states.tolist(), begun.controls.tolist())
    return Ipopt(model(case), tol, _MAX_ITERATIONS, _STRICT).solve(case.initial, start)


def model(case: Case) -> Model:
    """A case in CasADi's words."""
    running, terminal, path, end = case.running, case.terminal, case.path, case.end
    return Model(
        dynamics=lambda x, u: ca.vertcat(*case.dynamics(_parts(x), _parts(u))),
        running=lambda x, u: ca.SX(0) if running is None else ca.SX(running(_parts(x), _parts(u))),
        terminal=lambda x: ca.SX(0) if terminal is None else ca.SX(terminal(_parts(x))),
        sizes=(len(case.states), len(case.controls)),
        steps=case.steps,
        dt=0.0 if isinstance(case.duration, FreeDuration) else case.duration / case.steps,
        integrator=_integrator(case.integrator),
        bounds=case.bounds or (-inf, inf),
        path=None if path is None else lambda x, u: ca.vertcat(*path(_parts(x), _parts(u))),
        target=None if end is None else lambda x: ca.vertcat(*end(_parts(x))),
        duration=case.duration.guess if isinstance(case.duration, FreeDuration) else None,
    )


def _parts(vector: Any) -> Vector:
    return ca.vertsplit(vector)


def _integrator(ours: Integrator) -> Theirs:
    if isinstance(ours, control.RadauIIA):
        return Radau(ours.stages)
    for kind, theirs in _INTEGRATORS:
        if isinstance(ours, kind):
            return theirs
    known = ", ".join([*(kind.__name__ for kind, _ in _INTEGRATORS), control.RadauIIA.__name__])
    raise InputError(f"IPOPT has no form of the integrator {ours} here", known, "add it to benchmarks/ipopt.py")

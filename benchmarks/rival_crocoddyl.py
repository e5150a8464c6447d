"""Known control problems for crocoddyl, run by a Python that has it and CasADi, which supplies the derivatives.

Started with a name, a tolerance and the place of the problems in CasADi's words, it builds and writes the seconds that
took; from then on it answers each line of initial states with CPU seconds, cost, iterations and success of a solve.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import casadi as ca
import crocoddyl
import ipopt

name, tol = sys.argv[1], float(sys.argv[2])
begun = time.process_time()
model = ipopt.MODELS[name]()
n, m = model.sizes
x, u = ca.SX.sym("x", n), ca.SX.sym("u", m)
following, cost = ipopt.stage_of(model)(x, u, model.dt)


def derivatives(value: ca.SX, at: ca.SX) -> list[ca.SX]:
    """Gradient and Hessian."""
    slope = ca.gradient(value, at)
    return [slope, ca.jacobian(slope, at)]


class Fast:
    """A CasADi function on arrays of its own, without a copy per call."""

    def __init__(self, given: list[ca.SX], made: list[ca.SX]) -> None:
        function = ca.Function("fast", given, [ca.densify(part) for part in made])
        self.given = [np.zeros(part.numel()) for part in given]
        self.made = [np.zeros(part.shape, order="F") for part in made]
        self._buffer, self._trigger = function.buffer()
        for place, array in enumerate(self.given):
            self._buffer.set_arg(place, memoryview(array))
        for place, array in enumerate(self.made):
            self._buffer.set_res(place, memoryview(array.ravel(order="K")))

    def __call__(self, *arguments: np.ndarray) -> list[np.ndarray]:
        """Overwrites what the last call returned."""
        for array, argument in zip(self.given, arguments, strict=True):
            array[:] = argument
        self._trigger()
        return self.made


w = ca.vertcat(x, u)
values = Fast([x, u], [following, cost])
slopes = Fast([x, u], [ca.jacobian(following, w), *derivatives(cost, w)])
ends = Fast([x], [model.terminal(x)])
end_slopes = Fast([x], derivatives(model.terminal(x), x))


class Stage(crocoddyl.ActionModelAbstract):
    """One stage, its dynamics and cost the discrete ones."""

    def __init__(self) -> None:
        super().__init__(crocoddyl.StateVector(n), m, 0)

    def calc(self, data, x, u=None):
        if u is None:
            data.xnext, data.cost = x, ends(x)[0][0, 0]
            return
        following, cost = values(x, u)
        data.xnext, data.cost = following[:, 0], cost[0, 0]

    def calcDiff(self, data, x, u=None):  # noqa: N802  crocoddyl's signature
        if u is None:
            slope, bend = end_slopes(x)
            data.Lx, data.Lxx = slope[:, 0], bend
            return
        moved, slope, bend = slopes(x, u)
        data.Fx, data.Fu = moved[:, :n], moved[:, n:]
        data.Lx, data.Lu = slope[:n, 0], slope[n:, 0]
        data.Lxx, data.Lxu, data.Luu = bend[:n, :n], bend[:n, n:], bend[n:, n:]


stages, end = [Stage() for _ in range(model.steps)], Stage()
bounded = np.isfinite(model.bounds).any()
if bounded:
    for stage in stages:
        stage.u_lb, stage.u_ub = np.full(m, model.bounds[0]), np.full(m, model.bounds[1])


def solve(initial: np.ndarray) -> str:
    """CPU seconds, cost, iterations, success."""
    problem = crocoddyl.ShootingProblem(initial, stages, end)
    solver = (crocoddyl.SolverBoxFDDP if bounded else crocoddyl.SolverFDDP)(problem)
    solver.th_stop = tol**2  # it stops on a squared gradient
    controls = [np.full(m, model.control_guess) for _ in stages]
    begun = time.process_time()
    done = solver.solve(list(problem.rollout(controls)), controls, 500, False)
    return f"{time.process_time() - begun} {solver.cost} {solver.iter} {int(done)}"


print(time.process_time() - begun, flush=True)
for line in sys.stdin:
    print(solve(np.array([float(text) for text in line.split()])), flush=True)
